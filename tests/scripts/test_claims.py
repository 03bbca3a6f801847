"""`disdiff claims`: what is planned, what is made, what is read, and what never goes together."""

import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from disdiff.commands import claims as command
from disdiff.commands.app import load_command
from disdiff.report import claims
from disdiff.report.claims import GAP, MEAN_GAP, Claim
from disdiff.report.verdicts import Arm, Check
from disdiff.runs import campaign, claim_runs
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

    def measure(words, **options):
        name, folder, out = words[4], words[5], words[-1]
        names.append(f"{name} of {Path(folder).name}")
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text("a picture")
        save_json(Path(out).with_suffix(".json"), {"mean_ratio": 0.4})
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(campaign, "run_job", run)
    monkeypatch.setattr(claim_runs.subprocess, "run", measure)
    return names


@pytest.fixture
def call(load_script, call_script, tmp_path, monkeypatch):
    """Return a function that runs the command on claims of its own, in folders of its own."""

    def claim(number, arms, row, *checks, measures=()):
        return Claim(number, f"Claim {number}.", "a paper", "", "little", arms, (row,), checks, measures)

    made_up = (
        claim("1", (BETA_VAE,), GAP, Check(BETA_VAE, GAP, "below", 0.5), measures=(MEAN_GAP,)),
        claim("2", (ENCDIFF, BETA_VAE), DCI, Check(ENCDIFF, DCI, "above", BETA_VAE)),
        claim("3", (SMALLER,), DCI, Check(SMALLER, DCI, "above", 0.0)),
    )
    monkeypatch.setattr(command, "CLAIMS", made_up)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    options = ("--preset", "smoke", "--root", tmp_path / "runs", "--records", tmp_path / "records")
    return partial(call_script, load_script("claims"), *options, "--out", tmp_path / "claims.md")


def test_what_is_missing_is_told_then_made_once_and_read(call, made, tmp_path):
    status, said, _ = call("--only", "1,2", "--seeds", "1,2,3")
    assert status == 0 and made == [] and "claim 1: 3 of 3 runs missing, about 6 min" in said
    assert "claim 2: 6 of 6 runs missing" in said and "claim 3" not in said
    assert "| not run yet: 0 of 6 runs;" in (tmp_path / "claims.md").read_text()

    status, said, _ = call("--only", "1,2", "--seeds", "1,2,3", "--train")
    names = [f"{name}-smoke-s{seed}" for seed in (1, 2, 3) for name in ("beta-vae", "encdiff")]
    measured = [f"mean-gap of beta-vae-smoke-s{seed}" for seed in (1, 2, 3)]
    assert status == 0 and made == [*names, *measured] and "runs missing" not in said
    page = (tmp_path / "claims.md").read_text()
    assert f"{DCI}: EncDiff 0.62 ± 0.01, beta-VAE 0.32 ± 0.01 (yes) | holds |" in page
    assert "shapes3d (procedural), fast; 3 seeds; 64,000 images a run, 2 min. Can decide: little" in page
    assert f"{GAP}: beta-VAE 0.4 ± 0, bound 0.5 (yes)" in page
    assert "Measured by `disdiff mean-gap RUN --num 256`." in page
    assert "](claims/beta-vae-smoke-s1-mean-gap.png)" in page and "smoke-s2-mean-gap.png" not in page
    assert (tmp_path / "claims" / "beta-vae-smoke-s1-mean-gap.png").read_text() == "a picture"

    made.clear()
    assert call("--only", "1,2", "--seeds", "1,2,3", "--train")[0] == 0 and made == []
    _, said, _ = call("--only", "2", "--seeds", "1,2,3", "--set", "code.train.images=1920")
    assert "claim 2: 6 of 6 runs missing" in said  # runs of another budget do not count


def test_the_records_are_enough_for_the_page_and_for_what_is_missing(call, made, tmp_path):
    call("--only", "1,2", "--seeds", "1,2,3", "--train")
    page = (tmp_path / "claims.md").read_text()
    shutil.rmtree(tmp_path / "runs")
    made.clear()
    assert call("--only", "1,2", "--seeds", "1,2,3", "--train")[0] == 0 and made == []
    assert (tmp_path / "claims.md").read_text() == page
    assert call("--only", "3", "--seeds", "1,2,3", "--train")[0] == 0
    assert made == [f"beta-vae-five-units-smoke-s{seed}" for seed in (1, 2, 3)]


def test_runs_of_two_protocols_are_refused(call, made, tmp_path):
    call("--only", "2", "--seeds", "1", "--train")
    path = tmp_path / "records" / "encdiff-smoke-s1.json"
    path.write_text(path.read_text().replace(", fast", ", paper"))
    status, _, error = call("--only", "2", "--seeds", "1")
    assert (
        status == 2 and "claim 2 are on shapes3d (procedural), fast and shapes3d (procedural), paper" in error
    )


def test_a_run_planned_by_its_seed_is_the_run_of_that_seed(tmp_path):
    own = (f"run.root={tmp_path}", "preset=smoke")
    first, second = (
        campaign.plan_job(ROOT / BETA_VAE.file, (*own, f"run.name=run-{seed}", f"seed={seed}"))
        for seed in (1, 2)
    )
    made = claim_runs.reseed(first, 2, "run-2")
    assert (made.config, made.stages, made.command, made.folder) == (
        *(second.config, second.stages),
        *(second.command, second.folder),
    )


def test_a_model_that_ships_is_measured_with_every_seed_and_not_trained(tmp_path):
    (runs,) = claim_runs.plan_runs(
        [claims.SHIPPED], [1, 2], "small", tmp_path, (), tmp_path / "records"
    ).values()
    assert [run.finished for run in runs] == [True, True]
    words = runs[1].words(claims.COMPOSE)
    assert words[:6] == ["compose", str(runs[1].folder), "--num", "32", "--seed", "2"]
    assert Path(words[-1]).is_relative_to(tmp_path) and runs[0].lacks([claims.COMPOSE])
    assert runs[0].find_record().values[DCI] > 0.5 and not runs[0].lacks([])


def test_an_unknown_claim_is_named(call):
    status, _, error = call("--only", "1,14")
    assert status == 2 and "--only=14 is unknown; choose one of 1, 2, 3" in error


def test_measurements_are_read_by_place_and_shown_by_row():
    content = {"distance": {"data": 0.1, "normal": 0.2, "another": 1.0}, "num_images": 20}
    found = claim_runs.read_values(claims.NEW_CODES, content)
    assert found == {"distance/normal": 0.2, "distance/data": 0.1}
    record = claim_runs.Record("", "", 1, 1.0, {DCI: 0.5}, {"new-codes": found})
    assert record.read([claims.NEW_CODES]) == {
        DCI: 0.5,
        "Distance, normal codes": 0.2,
        "Distance, codes of the data": 0.1,
    }


def test_every_measure_is_a_command():
    for measure in {measure.name: measure for claim in claims.CLAIMS for measure in claim.measures}.values():
        parser = load_command(measure.name).make_parser()
        assert parser.parse_args(["pretrained/shapes3d", *measure.options, "--out", "x"])
