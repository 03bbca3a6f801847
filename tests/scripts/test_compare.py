import csv
import json
import re
from functools import partial

import pytest

from disdiff.build import SYSTEMS
from disdiff.config.schema import CONFIGS, load_config, to_yaml
from disdiff.report import comparison
from disdiff.report.comparison import compare_runs
from disdiff.report.published import PUBLISHED, Published
from disdiff.report.tables import escape, format_text
from ldm.data.catalog import DATA_SETS
from ldm.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a run folder with nothing but `metrics.json`."""

    def make(name, dci=0.5, protocols=("paper",), procedural=True, data="shapes3d", config=None, **changes):
        scores = {"dci": {"disentanglement": dci}, "factor_vae": {"eval_accuracy": 0.9}}
        metrics = {
            "system": "disdiff",
            "preset": "small",
            "seed": 0,
            "dataset": {"name": data, "procedural": procedural, "num_images": 480_000},
            "scores": {protocol: scores for protocol in protocols},
            "editing": {"probe": "originals", "success_mean": 0.25, "with_reconstructions": {}},
            **changes,
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        if config is not None:
            (tmp_path / name / "config.yaml").write_text(config)
        return tmp_path / name

    return make


@pytest.fixture
def call(load_script, call_script):
    """Return a function that runs the script: status, what it said, what it complained of."""
    return partial(call_script, load_script("compare"))


def test_runs_of_a_system_are_pooled_over_seeds(write, call, tmp_path):
    runs = [
        write(f"disdiff-shapes3d-small-s{seed}", dci=dci, seed=seed) for seed, dci in enumerate((0.5, 0.7))
    ]
    other = write("pdae-shapes3d-small-s0", dci=0.3, system="pdae")
    status, said, _ = call(
        *runs,
        other / "metrics.json",
        tmp_path / "_stages",
        "--csv",
        tmp_path / "t.csv",
        "--latex",
        tmp_path / "t.tex",
    )
    assert status == 0 and "shapes3d (procedural), protocol paper" in said
    assert re.search(r"disdiff +pdae", said) and re.search(r"small, n=2 +small, n=1", said)
    assert re.search(r"DCI disentanglement +0\.600 \+- 0\.100 +0\.300", said)
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    (pooled,) = [r for r in rows if r["system"] == "disdiff" and r["value"] == "DCI disentanglement"]
    assert float(pooled["mean"]) == pytest.approx(0.6) and float(pooled["std"]) == pytest.approx(0.1)
    assert (pooled["runs"], pooled["protocol"], pooled["source"]) == ("2", "paper", "ours")
    latex = (tmp_path / "t.tex").read_text()
    assert r"DCI disentanglement & $0.600 \pm 0.100$ & $0.300$ \\" in latex and r"\toprule" in latex


def test_variants_and_presets_of_a_system_have_columns_of_their_own(write):
    names = ("disdiff-shapes3d-small-s0", "disdiff-shapes3d-small-s1", "no-invariant-s0")
    runs = [write(name, seed=int(name[-1])) for name in names]
    table = compare_runs([*runs, write("smoke", preset="smoke")])
    assert [(column.title, column.preset, len(column.seeds)) for column in table.columns] == [
        ("disdiff-shapes3d", "small", 2),
        ("no-invariant", "small", 1),
        ("disdiff", "smoke", 1),
    ]


def test_runs_of_one_method_are_pooled_wherever_they_lie(write):
    """Their configurations say so; folders have any names. Another number of units is another method."""
    names = ("shapes3d", "disdiff-shapes3d-small-s22", "by-hand", "six-s21")
    runs = [write(name, seed=seed) for name, seed in zip(names, (21, 22, 23, 21), strict=True)]
    for run, seed in zip(runs, (21, 22, 23, 21), strict=True):
        config = load_config([CONFIGS / "disdiff" / "shapes3d.yaml"], [f"seed={seed}", f"run.root={run}"])
        config.trainer.threads, config.code.train.preview_steps = seed, seed
        config.code.num_units = 6 if run is runs[3] else 10
        (run / "config.yaml").write_text(to_yaml(config))
    table = compare_runs(runs)
    assert [(column.title, column.seeds) for column in table.columns] == [
        ("disdiff-shapes3d", (21, 22, 23)),
        ("six", (21,)),
    ]
    with pytest.raises(UserError, match="runs of one method with seed 22"):
        compare_runs([*runs, write("again", seed=22, config=(runs[1] / "config.yaml").read_text())])


def test_a_run_without_scores_is_compared_by_the_rest_and_named(write, call):
    reason = "codes are constant in every unit"
    collapsed = write("b", seed=1, scores=None, scores_reason=reason)
    status, said, _ = call(write("a", dci=0.5), collapsed)
    assert status == 0 and reason in said and re.search(r"DCI disentanglement +0\.500\n", said)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"protocols": ("fast",)}, "scores of different protocols are not comparable"),
        ({"procedural": False}, "shapes3d (procedural) and"),
        ({"data": "cars3d"}, "make one table for each"),
        ({"seed": 0}, "give only one of them"),
    ],
)
def test_what_does_not_compare_is_refused(write, call, others, says):
    status, said, error = call(write("a"), write("b", **{"seed": 1, **others}))
    assert status == 2 and not said
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_the_same_run_under_two_names_counts_once(write, call):
    stages = {"stages": {"code": {"hash": "abc"}}}
    status, _, error = call(write("disdiff-shapes3d-small-s0", **stages), write("shapes3d", **stages))
    assert status == 2 and "the same run" in error


def test_a_protocol_is_chosen_where_runs_have_several(write, call):
    both, paper = write("a", protocols=("paper", "fast")), write("b", seed=1)
    assert call(both, paper)[0] == 0
    assert "choose one with --protocol" in call(both)[2]
    assert "protocol fast" in call(both, "--protocol", "fast")[1]
    assert "no scores of the protocol fast" in call(both, paper, "--protocol", "fast")[2]


def test_published_values_stand_beside_ours_on_real_data_only(write, call, monkeypatch):
    values = {"DCI disentanglement": 0.1}
    entry = Published("DisDiff", "disdiff", "shapes3d", "paper", values, "480,000 images", "a table")
    monkeypatch.setattr(comparison, "PUBLISHED", (entry,))
    _, said, _ = call(write("real", procedural=False))
    assert "DisDiff, published" in said and "DisDiff, published: a table; 480,000 images." in said
    assert re.search(r"DCI disentanglement +0\.500 +0\.100", said)
    assert "published" not in call(write("ours"))[1]
    assert "published" not in call(write("fast", procedural=False, protocols=("fast",)))[1]


def test_every_published_value_says_where_it_comes_from():
    assert all(entry.values and entry.source and entry.measured for entry in PUBLISHED)
    assert {entry.data for entry in PUBLISHED} - {"celeba_hq"} <= set(DATA_SETS)
    assert {entry.system for entry in PUBLISHED} <= {None, *SYSTEMS}


@pytest.mark.parametrize(
    ("data", "system", "expected"),
    [
        ("shapes3d", "encdiff", {"EncDiff": (0.999, 0.969), "VCT": (0.957, 0.884), "FDAE": (0.987, 0.917)}),
        ("mpi3d_toy", "disdiff", {"DisDiff-VQ": (0.617, 0.337), "VCT": (0.689, 0.475)}),
        (
            "cars3d",
            "dyga",
            {"DyGA with skip dropout": (0.941, 0.414), "VCT": (0.966, 0.382), "FDAE": (0.918, 0.418)},
        ),
        ("mpi3d_real_complex", "beta_vae", {"FDAE": (0.903, 0.644)}),
        ("dsprites", "encdiff", {}),
    ],
)
def test_published_scores_stand_where_their_data_and_system_are(write, data, system, expected):
    table = compare_runs([write("real", procedural=False, data=data, system=system)])
    found = {
        column.title.removesuffix(", published"): tuple(value.mean for value in column.values.values())
        for column in table.columns
        if not column.runs
    }
    assert found == expected
    drawn = compare_runs([write("drawn", procedural=True, data=data, system=system)])
    assert all(column.runs for column in drawn.columns)
    fast = compare_runs([write("fast", procedural=False, protocols=("fast",), data=data, system=system)])
    assert all(column.runs for column in fast.columns)


def test_published_tad_and_fid_stand_beside_runs_on_celeba(write):
    run = write("faces", procedural=False, data="celeba", system="disdiff", scores=None)
    table = compare_runs([run])
    (published,) = [column for column in table.columns if not column.runs]
    assert {row: value.mean for row, value in published.values.items()} == {
        "TAD": 0.305,
        "FID, 10,000 images": 18.2,
    }
    assert set(published.values) <= set(table.rows)


def test_bad_files_are_named(tmp_path, call):
    (tmp_path / "list.json").write_text("[]")
    for path, says in ((tmp_path / "absent", "cannot read"), (tmp_path / "list.json", "not a metrics.json")):
        status, _, error = call(path)
        assert status == 2 and says in error and "Traceback" not in error


def test_latex_is_escaped():
    assert escape(r"a_b & 5% +- \x") == r"a\_b \& 5\% $\pm$ \textbackslash{}x"


def test_costs_are_rows_where_a_run_knows_them(write):
    stages = {"code": {"hash": "abc", "images": 64_000, "seconds": 640.0}, "autoencoder": {"hash": "d"}}
    run = write("a", parameters={"total": 3_500_000, "trainable": 1_250_000}, stages=stages)
    (column,) = compare_runs([run]).columns
    values = {row: value.mean for row, value in column.values.items()}
    assert values["Parameters, trainable (M)"] == 1.25 and values["Parameters, total (M)"] == 3.5
    assert values["Images per second, own stage"] == 100
    assert values["Minutes of training, own stage"] == pytest.approx(640 / 60)
    assert "Parameters, total (M)" not in compare_runs([write("b")]).rows


def test_a_system_without_first_stage_has_no_values_of_first_stage_and_noise(write):
    made = {"autoencoder_psnr": 99.0, "inferred_psnr": 20.0, "random_psnr": 20.0}
    stages = {"code": {"hash": "abc"}}
    table = compare_runs([write("a", system="beta_vae", stages=stages, reconstruction=made)])
    assert [row for row in table.rows if "PSNR" in row] == ["PSNR (dB): code and inferred noise"]
    assert "beta_vae decodes codes without noise" in table.columns[0].note


def test_columns_that_do_not_fit_go_on_below(write):
    runs = [write(f"{name}-s0", system=name) for name in ("disdiff", "pdae", "encdiff")]
    table = compare_runs(runs)
    narrow, wide = format_text(table, width=60), format_text(table)
    assert max(map(len, narrow.splitlines()[:6])) <= 60
    assert wide.count("DCI disentanglement") == 1 and narrow.count("DCI disentanglement") == 2
    for name in ("disdiff", "pdae", "encdiff"):
        assert len(re.findall(rf"\b{name}\b", narrow)) == 1


def test_all_forms_and_a_page_in_a_folder(write, call, tmp_path):
    runs = [write(f"disdiff-s{seed}", seed=seed, dci=0.4 + seed / 10) for seed in (0, 1)]
    status, said, _ = call(*runs, "--out", tmp_path / "out")
    assert status == 0 and str(tmp_path / "out" / "comparison.html") in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"table.txt", "table.csv", "table.tex", "table.json", "comparison.html"}
    written = json.loads((tmp_path / "out" / "table.json").read_text())
    assert (written["protocol"], written["data"]) == ("paper", "shapes3d (procedural)")
    (column,) = written["columns"]
    assert column["values"]["DCI disentanglement"]["mean"] == pytest.approx(0.45)
    assert [run["values"]["DCI disentanglement"] for run in column["runs"]] == [0.4, 0.5]


@pytest.mark.parametrize("arguments", [[], ["--train"], ["--systems", "pdae"], ["RUN", "--dry-run"]])
def test_a_command_without_something_to_do_is_refused(call, arguments):
    status, _, error = call(*arguments)
    assert status == 2 and "name runs to compare, or --train" in error


def test_supervised_runs_stand_apart(write, call):
    """They come last, marked, and the table says by what they were supervised."""
    guided = write("disdiff-shapes3d_clip-small-s0", system="disdiff_clip", supervision="weak: by a CLIP")
    plain = write("disdiff-shapes3d-small-s0")
    status, said, _ = call(guided, plain)
    assert status == 0 and re.search(r"disdiff +disdiff_clip \(weakly supervised\)", said)
    assert "weak: by a CLIP; not comparable with unsupervised systems" in said
