"""`disdiff claims`: what is planned, what is made, what is read, and what never goes together."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest

from disdiff.commands import claims as command
from disdiff.report import claims
from disdiff.report.claims import GAP, Claim
from disdiff.report.verdicts import Arm, higher, lower
from disdiff.runs import campaign
from ldm.files import save_json

ROOT = Path(__file__).resolve().parents[2]
ENCDIFF, BETA_VAE = claims.ENCDIFF, claims.BETA_VAE
DCI = claims.DCI
SMALLER = Arm("beta-VAE, five units", BETA_VAE.file, ("code.num_units=5",))


@pytest.fixture
def made(monkeypatch, finish):
    """Runs and measurements are made at once; their names."""
    names = []

    def run(job, log, tell):
        names.append(job.name)
        finish(job, "fast")

    def measure(job, name):
        names.append(f"{name} of {job.name}")
        file = command.measured_file(job, name)
        save_json(file, {"mean_ratio": 0.4})
        return {}

    monkeypatch.setattr(campaign, "run_job", run)
    monkeypatch.setattr(command, "make_measurement", measure)
    return names


@pytest.fixture
def call(load_script, call_script, tmp_path, monkeypatch):
    """Return a function that runs the command on two claims of its own, in folders of its own."""
    two = (
        Claim(
            "1",
            "It is low.",
            "a paper",
            "",
            (BETA_VAE,),
            (GAP,),
            lower(GAP, BETA_VAE, BETA_VAE),
            ("mean_gap",),
        ),
        Claim(
            "2", "It is higher.", "a paper", "", (ENCDIFF, BETA_VAE), (DCI,), higher(DCI, ENCDIFF, BETA_VAE)
        ),
        Claim("3", "It is smaller.", "a paper", "", (SMALLER,), (DCI,), higher(DCI, SMALLER, SMALLER)),
    )
    monkeypatch.setattr(command, "CLAIMS", two)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    options = ("--preset", "smoke", "--root", tmp_path / "runs", "--out", tmp_path / "claims.md")
    return partial(call_script, load_script("claims"), *options)


def test_what_is_missing_is_told_then_made_once_and_read(call, made, tmp_path):
    status, said, _ = call("--only", "1,2", "--seeds", "1,2,3")
    assert status == 0 and made == [] and "claim 1: 3 of 3 runs missing, about 36 min" in said
    assert "claim 2: 6 of 6 runs missing" in said and "claim 3" not in said
    assert "| not run yet: 0 of 6 runs;" in (tmp_path / "claims.md").read_text()

    status, said, _ = call("--only", "1,2", "--seeds", "1,2,3", "--train")
    names = [f"{name}-smoke-s{seed}" for seed in (1, 2, 3) for name in ("beta-vae", "encdiff")]
    measured = [f"mean_gap of beta-vae-smoke-s{seed}" for seed in (1, 2, 3)]
    assert status == 0 and made == [*names, *measured] and "runs missing" not in said
    page = (tmp_path / "claims.md").read_text()
    assert f"{DCI}: EncDiff 0.62 ± 0.01, beta-VAE 0.32 ± 0.01 | holds |" in page
    assert (
        "shapes3d (procedural), fast; 3 seeds; 64,000 images, 2 min" in page
        and f"{GAP}: beta-VAE 0.4 ± 0" in page
    )
    assert "disdiff mean-gap" in page and "run.name=beta-vae-smoke-s1 seed=1" in page

    made.clear()
    assert call("--only", "1,2", "--seeds", "1,2,3", "--train")[0] == 0 and made == []
    _, said, _ = call("--only", "2", "--seeds", "1,2,3", "--set", "code.train.images=1920")
    assert "claim 2: 6 of 6 runs missing" in said  # runs of another budget do not count


def test_runs_of_two_protocols_are_refused(call, made, tmp_path):
    call("--only", "2", "--seeds", "1", "--train")
    path = tmp_path / "runs" / "encdiff-smoke-s1" / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({**metrics, "scores": {"paper": metrics["scores"]["fast"]}}))
    status, _, error = call("--only", "2", "--seeds", "1")
    assert status == 2 and "different protocols are not comparable" in error


def test_a_run_planned_by_its_seed_is_the_run_of_that_seed(tmp_path):
    own = (f"run.root={tmp_path}", "preset=smoke")
    first, second = (
        campaign.plan_job(ROOT / BETA_VAE.file, (*own, f"run.name=run-{seed}", f"seed={seed}"))
        for seed in (1, 2)
    )
    made = command.reseed(first, 2, "run-2")
    assert (made.config, made.stages, made.command, made.folder) == (
        *(second.config, second.stages),
        *(second.command, second.folder),
    )


def test_an_unknown_claim_is_named(call):
    status, _, error = call("--only", "1,14")
    assert status == 2 and "--only=14 is unknown; choose one of 1, 2, 3" in error


def test_swaps_of_single_factors_are_values():
    made = {"editing": {"success": {"scale": 0.25, "shape": 0.5, "floor hue": 1.0}}}
    found = command.read_further(Claim("1", "", ""), None, made)
    assert (found[claims.RIGHT[0]], found[claims.RIGHT[1]]) == (0.25, 0.5)


def test_measurements_are_read_by_row():
    stages = {name: {"psnr": value} for value, name in enumerate(("early", "critical", "late", "never"))}
    found = command.read_stages({"corrected": stages})
    assert list(found) == list(claims.STAGES) and list(found.values()) == [1, 0, 2]
    tad = {"summary": {"tad_binarised": {"score": 0.5, "num_captured": 3.0}}}
    assert command.read_tad(tad) == {claims.TAD: 0.5, claims.CAPTURED: 3.0}
    assert {measure for claim in claims.CLAIMS for measure in claim.measures} == set(command.MEASURES)
