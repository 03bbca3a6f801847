import json
from types import SimpleNamespace

import numpy as np
import pytest

from ldm.errors import UserError


@pytest.fixture
def script(load_script):
    return load_script("evaluate")


@pytest.fixture
def call(script, call_script):
    """Return a function that runs the script: status, what it said, last line of what it complained of."""

    def run(*arguments):
        status, said, complained = call_script(script, *arguments)
        return status, said, complained.strip().splitlines()[-1:] or [""]

    return run


@pytest.fixture
def arrays():
    factors = np.random.RandomState(0).randint(0, 4, (2_500, 2))
    return {"codes": factors + 0.01 * np.random.RandomState(1).randn(2_500, 2), "factors": factors}


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a run folder with codes and the metrics that name its data."""

    def write(name, arrays, procedural=True):
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "codes.npz", **arrays)
        data = {"name": "shapes3d", "procedural": procedural}
        (folder / "metrics.json").write_text(
            json.dumps({"system": "disdiff", "dataset": data, "scores": None})
        )
        return folder

    return write


def test_identity_codes_score_almost_one_over_seeds(call, save, arrays, tmp_path):
    codes, out = save("run", arrays) / "codes.npz", tmp_path / "s.json"
    status, said, _ = call("--codes", codes, "--protocol", "fast", "--seeds", "0,1", "--out", out)
    assert status == 0 and "protocol fast, 2500 codes" in said
    assert "over 2 metric seeds" in said and "runs" not in said
    results = json.loads(out.read_text())
    assert results["protocol"] == "fast" and set(results["runs"]) == {str(codes)}
    seeds = results["runs"][str(codes)]
    assert set(seeds) == {"0", "1"}
    assert all(scores["factor_vae"]["eval_accuracy"] == 1 for scores in seeds.values())
    assert all(scores["dci"]["disentanglement"] > 0.95 for scores in seeds.values())


def test_every_number_of_a_unit_may_be_a_code_and_that_is_said(call, save, arrays, tmp_path):
    vectors = np.stack([arrays["codes"], 0.3 * arrays["codes"]], axis=2)
    codes, out = save("run", {**arrays, "codes": vectors}) / "codes.npz", tmp_path / "s.json"
    for units, width in (("pca1", 2), ("all", 4)):
        arguments = ("--codes", codes, "--protocol", "fast", "--units", units, "--out", out)
        status, said, _ = call(*arguments)
        assert status == 0 and ("not the published reduction" in said) is (units == "all")
        written = json.loads(out.read_text())
        assert written["units"] == units
        assert len(written["runs"][str(codes)]["0"]["dci"]["importance"]) == width


def test_runs_are_pooled(script, call, save, arrays, monkeypatch):
    scripted = {0.0: 0.2, 1.0: 0.6}  # by the first code

    def score(arrays, protocol, seed, units):
        value = scripted[float(arrays["codes"][0, 0])] + 0.1 * seed
        return {"mig": {"score": value, "estimator": "histogram"}}, None

    runs = [save(f"run-{v:.0f}", {**arrays, "codes": np.full((5, 2), v)}) for v in scripted]
    monkeypatch.setattr(script, "score_codes", score)
    status, said, _ = call(*runs, "--seeds", "0,1")
    assert status == 0
    assert "0.4500 +- 0.2000 over 2 runs +- 0.0500 over 2 metric seeds" in said


def test_runs_on_procedural_and_real_data_are_not_pooled(call, save, arrays):
    status, said, (last,) = call(save("a", arrays), save("b", arrays, procedural=False))
    assert status == 2 and not said and "are not comparable" in last


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"factors": np.zeros((2_499, 2), int)}, "codes have 2500 rows but factors have 2499"),
        ({"factors": np.random.rand(2_500, 2)}, "factors must be integers, but their type is float64"),
        ({"factors": np.tile([[0, 1]], (2_500, 1))}, "factors have a single value in column(s) [0, 1]"),
        ({"codes": np.ones((2_500, 2))}, "codes are constant in every unit"),
        ({"codes": np.full((2_500, 2), np.nan)}, "codes contain NaN"),
        ({"codes": np.array([["a"]])}, "codes must be floating-point numbers"),
    ],
)
def test_bad_arrays_are_named_in_one_sentence_with_status_2(call, save, arrays, changes, named):
    status, said, (last,) = call(save("run", {**arrays, **changes}), "--protocol", "fast")
    assert status == 2 and not said
    assert last.startswith("error: ") and named in last


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "give either run folders or --codes"),
        (["RUN", "--codes", "x.npz"], "give either run folders or --codes"),
        (["RUN", "RUN"], "given twice"),
        (["--codes", "absent.npz"], "absent.npz"),
        (["RUN", "--seeds", "one"], "--seeds one"),
    ],
)
def test_bad_arguments_are_one_sentence_and_status_2(call, save, arrays, arguments, named):
    run = save("run", arrays)
    status, _, (last,) = call(*[run if argument == "RUN" else argument for argument in arguments])
    assert status == 2 and last.startswith("error: ") and named in last


def test_a_traceback_is_shown_on_request_only(call, save, arrays):
    with pytest.raises(UserError, match="codes are constant"):
        call(save("run", {**arrays, "codes": np.ones((2_500, 2))}), "--debug")


def test_scores_that_are_not_defined_are_left_out_with_their_reason(call, save, arrays, tmp_path):
    one = {**arrays, "factors": arrays["factors"][:, :1], "meta": np.array([{}], dtype=object)}
    codes, out = save("run", one) / "codes.npz", tmp_path / "s.json"
    status, said, _ = call("--codes", codes, "--protocol", "fast", "--seeds", "0,1", "--out", out)
    assert status == 0 and "  MIG  " in said and "  DCI completeness" in said
    assert "beta-VAE score  " not in said
    assert said.count("note: beta-VAE score is not defined: factors have one column") == 1
    scores = json.loads(out.read_text())["runs"][str(codes)]["0"]
    assert "beta_vae" not in scores and list(scores["undefined"]) == ["beta_vae"]


def test_no_active_unit_is_said_beside_the_score(call, save, arrays):
    run = save("run", {**arrays, "codes": arrays["codes"] * 1e-3})
    status, said, _ = call(run, "--protocol", "fast")
    assert status == 0 and "note: FactorVAE score: no unit is active" in said and "below 0.05" in said
    assert "no unit is active" not in call(save("other", arrays), "--protocol", "fast")[1]


def test_one_folder_under_two_names_is_named_twice(call, save, arrays):
    run = save("run", arrays)
    status, _, (last,) = call(run, run.parent / "run" / ".." / "run")
    assert status == 2 and "given twice" in last


def test_controls_are_added_to_the_run_beside_those_of_other_protocols(
    script, call, save, arrays, monkeypatch, tmp_path
):
    def score(config, model, source, codes, protocol, progress):
        control = {"name": f"PCA of {source}", "seed": None, "factor_vae": 0.5, "dci": 0.25}
        own = {"factor_vae": 0.75, "dci": 0.2}
        return {protocol: {"num_images": 2_000, "seed": 0, "run": own, "controls": [control]}}

    folder, out = save("run", {**arrays, "factor_names": ["a", "b"]}), tmp_path / "out.json"
    run = SimpleNamespace(config=None, model=None, source="halves", require_codes=lambda name: arrays)
    monkeypatch.setattr(script, "load_run", lambda folder: run)
    monkeypatch.setattr(script, "score_controls", score)
    for protocol in ("fast", "paper"):
        status, said, _ = call(folder, "--controls", "--protocol", protocol, "--out", out)
        assert status == 0 and "PCA of halves" in said and "beat it by 0.250" in said
    kept = json.loads((folder / "metrics.json").read_text())
    assert set(kept["controls"]) == {"fast", "paper"} and kept["dataset"]["name"] == "shapes3d"
    assert json.loads(out.read_text())["protocol"] == "paper"
    del arrays["factors"]
    assert "no factor labels" in call(folder, "--controls")[2][0]
    assert "needs run folders" in call("--codes", folder / "codes.npz", "--controls")[2][0]
