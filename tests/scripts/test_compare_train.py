"""`compare.py --train`: what is trained, what is skipped, what comes of failures and kills."""

import csv
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from disdiff.runs import campaign

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def made(monkeypatch, finish):
    """Runs are made at once; names of those that were. A name in `made.bad` fails."""

    class Made(list):
        bad = set()

    names = Made()

    def run(job, log, tell):
        names.append(job.name)
        tell("factors:  10%|#  | 1/10")
        if job.name in names.bad:
            return "training diverged at step 7"
        finish(job)
        return None

    monkeypatch.setattr(campaign, "run_job", run)
    return names


@pytest.fixture
def call(load_script, call_script, tmp_path, monkeypatch):
    """Return a function that runs the script with --train on folders of its own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    return partial(call_script, load_script("compare"), "--train", "--set", f"run.root={tmp_path}")


def test_what_is_missing_is_trained_and_the_rest_goes_on_after_a_failure(call, made, tmp_path):
    command = ["--systems", "disdiff,beta_vae", "--seeds", "1,2", "--data", "shapes3d"]
    status, said, _ = call(*command, "--dry-run")
    assert status == 0 and made == [] and not list(tmp_path.iterdir())
    assert "0 of 4 runs finished, 4 to train" in said and "for 2 of 4 runs" in said

    names = [f"{system}-shapes3d-small-s{seed}" for seed in (1, 2) for system in ("disdiff", "beta_vae")]
    made.bad = {names[1]}
    status, said, _ = call(*command)
    assert status == 1 and made == names  # seed by seed; the failure stops nothing
    assert f"failed:\n  {names[1]}: training diverged at step 7\n" in said
    out = tmp_path / "_comparisons" / "systems-shapes3d-small"
    written = json.loads((out / "table.json").read_text())
    assert [(c["system"], c["values"]["FactorVAE score"]["runs"]) for c in written["columns"]] == [
        ("disdiff", 2),
        ("beta_vae", 1),
    ]
    assert written["failures"] == {names[1]: "training diverged at step 7"}
    assert "training diverged at step 7" in (out / "comparison.html").read_text()

    made.clear()
    made.bad = set()
    assert "3 of 4 runs finished, 1 to train, about 2 min" in call(*command, "--dry-run")[1]
    status, said, _ = call(*command)
    assert status == 0 and made == [names[1]] and "failed" not in said
    written = json.loads((out / "table.json").read_text())
    assert written["columns"][1]["values"]["FactorVAE score"]["mean"] == pytest.approx(0.315)
    command = written["commands"][str(tmp_path / names[0])]
    assert command == (
        f"disdiff train --base configs/disdiff/shapes3d.yaml preset=small run.root={tmp_path} seed=1"
    )


def test_several_data_sets_make_one_table(call, made, tmp_path):
    """A row per system, a group of columns per data set, resumed like any campaign."""
    command = ["--systems", "disdiff,beta_vae", "--seeds", "1,2", "--data", "shapes3d,glyphs"]
    made.bad = {"beta_vae-glyphs-small-s2"}
    status, said, _ = call(*command)
    assert (
        status == 1
        and len(made) == 8
        and made[:2] == [f"{system}-shapes3d-small-s1" for system in ("disdiff", "beta_vae")]
    )
    lines = [line for line in said.splitlines() if " | " in line]
    assert [title.strip() for title in lines[0].split(" | ")] == [
        *("", "shapes3d (procedural), paper", "glyphs (procedural), paper")
    ]
    assert lines[1].count("FactorVAE") == 2
    assert [line.split(" | ")[0].strip() for line in lines[3:]] == ["disdiff (small)", "beta_vae (small)"]
    assert lines[3].count("0.615 +- 0.005") == 4 and "0.310" in lines[4]
    out = tmp_path / "_comparisons" / "systems-shapes3d+glyphs-small"
    for folder in ("shapes3d-procedural", "glyphs-procedural"):
        assert json.loads((out / folder / "table.json").read_text())["data"].startswith(folder.split("-")[0])
    page = (out / "comparison.html").read_text()
    assert "training diverged" in page and 'href="glyphs-procedural/comparison.html"' in page
    header, *values = csv.reader((out / "table.csv").read_text().splitlines())
    assert header[3] == "data" and all(len(line) == len(header) for line in values)
    assert {line[3] for line in values} == {"shapes3d (procedural)", "glyphs (procedural)"}
    assert r"\multicolumn{3}{c}{glyphs (procedural), paper}" in (out / "table.tex").read_text()

    made.clear()
    made.bad = set()
    assert call(*command)[0] == 0 and made == ["beta_vae-glyphs-small-s2"]


def test_finished_runs_join_those_that_are_trained(call, made, tmp_path):
    assert call("--systems", "disdiff", "--seeds", "1")[0] == 0
    elsewhere = (tmp_path / "disdiff-shapes3d-small-s1").rename(tmp_path / "shipped")
    made.clear()
    command = ["--systems", "disdiff,beta_vae", "--seeds", "2", elsewhere]
    assert call(*command, "--dry-run")[0] == 0 and made == []
    status, _, _ = call(*command, "--out", tmp_path / "out")
    assert status == 0 and len(made) == 2
    columns = json.loads((tmp_path / "out" / "table.json").read_text())["columns"]
    assert [len(column["runs"]) for column in columns] == [2, 1]
    status, _, error = call("--systems", "beta_vae", "--seeds", "3", tmp_path / "absent")
    assert status == 2 and "absent" in error and len(made) == 2  # told before anything is trained


def test_a_run_of_another_evaluation_is_not_taken_for_finished(call, made, tmp_path):
    command = ["--systems", "beta_vae", "--seeds", "1"]
    assert call(*command)[0] == 0 and len(made) == 1
    for more, says in (([], "1 of 1 runs finished"), (["evaluation.seed=5"], "0 of 1 runs finished")):
        assert says in call(*command, "--dry-run", "--set", f"run.root={tmp_path}", *more)[1]


def test_a_configuration_that_the_preset_has_anyway_is_told_and_left_out(call, made):
    ablation = "configs/disdiff/ablations/attached_condition.yaml"  # as `small` has it
    status, said, _ = call("--systems", "disdiff", "--configs", ablation)
    assert status == 0 and made == ["disdiff-shapes3d-small-s0"]
    assert f"{ablation} equals configs/disdiff/shapes3d.yaml here" in said


def test_an_interrupt_says_how_to_go_on(call, monkeypatch):
    def interrupt(job, log, tell):
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run_job", interrupt)
    status, _, complained = call("--systems", "beta_vae")
    assert status == 130 and complained.endswith(
        "stopped; the same command continues from the last checkpoint\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--systems", "betavae"],
            "no configs/betavae/shapes3d.yaml; choose among autoencoder, beta_tcvae, beta_vae",
        ),
        (["--configs", "absent.yaml"], "cannot read the configuration absent.yaml"),
        (["--systems", "autoencoder"], "has no code to compare"),
        (["--systems", "beta_vae", "--preset", "tiny"], "unknown preset 'tiny'"),
        (["--systems", "beta_vae", "--seeds", "one"], "--seeds one"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(call, made, arguments, says):
    status, _, error = call(*arguments)
    assert status == 2 and says in error and error.count("\n") == 1 and made == []


def test_configurations_whose_numbers_would_not_compare_are_refused(call, made, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("bases: [shapes3d]\nsystem: disdiff\ndata: {num_train: 100}\n")
    status, _, error = call("--systems", "disdiff", "--configs", other)
    assert status == 2 and "differ in data" in error and made == []


SHRUNK = [
    *("stages.pretrained=false", "trainer.device=cpu", "trainer.threads=1", "data.num_train=1500"),
    *("autoencoder.train.images=64", "latent_diffusion.train.images=128", "code.train.images=96"),
    *("sampler.num_steps=2", "evaluation.num_images=2000", "evaluation.num_pairs=0"),
]


@pytest.mark.slow
def test_two_systems_over_two_seeds_killed_once(tmp_path):
    command = [
        *(sys.executable, str(ROOT / "scripts" / "compare.py"), "--train", "--preset", "smoke"),
        *("--systems", "pdae,beta_vae", "--seeds", "1,2", "--out", str(tmp_path / "out")),
        *("--set", f"run.root={tmp_path}", *SHRUNK),
    ]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done, deadline = tmp_path / "pdae-shapes3d-smoke-s1" / "metrics.json", time.monotonic() + 600
    while not done.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    first.terminate()
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 130, errors
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert process.returncode == 0, process.stderr
    stages = list((tmp_path / "_stages").glob("*/stage.json"))
    assert len(stages) == 2  # trained once, for the two runs that need them
    written = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [len(column["runs"]) for column in written["columns"]] == [2, 2]
    pdae = written["columns"][0]["values"]
    assert {"FactorVAE score", "Parameters, trainable (M)", "Images per second, own stage"} <= set(pdae)
    assert all(run["finished"] and run["commit"] is not None for c in written["columns"] for run in c["runs"])
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("data:image/jpeg") == 4 and "http" not in page
    again = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "4 of 4 runs finished, 0 to train" in again.stdout
