"""Write the page of claims from finished runs; --train makes the missing runs and measurements first."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from disdiff.commands.common import parse_seeds
from disdiff.commands.terminal import begin_parser, interruptible
from disdiff.config.places import find
from disdiff.editing.unit_names import name_data
from disdiff.report import claims as tried
from disdiff.report.claims import CLAIMS, Claim
from disdiff.report.claims_page import Trial, write_page
from disdiff.report.comparison import check_same_data, choose_protocol, load_metrics, read_run
from disdiff.report.verdicts import Arm
from disdiff.runs.campaign import Job, plan_job, train_campaign
from disdiff.runs.stages import list_stages
from ldm.errors import check_option
from ldm.files import atomic_path, expand_home, load_json
from ldm.training.log import format_duration

EXAMPLES = """examples:
  disdiff claims                               write the page from finished runs, and say what is missing
  disdiff claims --only 1,13 --train           make what claims 1 and 13 lack, then write the page
  disdiff claims --train --seeds 21            one seed of every claim
  disdiff claims --train --set code.train.images=16000    a smaller budget; other runs than the full ones
The runs lie in runs/claims (--root), each trained by `disdiff train` in a process of its own. After an
interruption or a failure, repeat the command to continue. Only finished runs of exactly the asked
configuration count, and all runs of a claim must have the same data and protocol."""
EVERYWHERE = ("trainer.threads=1", "latent_dpm.enabled=false")
Values = dict[str, float]


class Measure(NamedTuple):
    """A further measurement of a run: words of the command, its JSON file, and its values by row."""

    words: tuple[str, ...]
    out: str
    file: str
    read: Callable[[dict[str, Any]], Values]


def read_stages(measured: dict[str, Any]) -> Values:
    """Reconstruction errors with the code in one stage of sampling only."""
    return {row: measured["corrected"][row.split()[5]]["psnr"] for row in tried.STAGES}


def read_tad(measured: dict[str, Any]) -> Values:
    """TAD of binarised factors and the number of captured values."""
    found = measured["summary"]["tad_binarised"]
    return {tried.TAD: found["score"], tried.CAPTURED: found["num_captured"]}


MEASURES = {
    "mean_gap": Measure(
        ("mean-gap",), "mean_gap.png", "mean_gap.json", lambda measured: {tried.GAP: measured["mean_ratio"]}
    ),
    "correction_stages": Measure(
        ("correction-stages", "--num", "64"), "correction_stages.png", "correction_stages.json", read_stages
    ),
    "tad": Measure(("tad",), "tad.json", "tad.json", read_tad),
}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("--only", metavar="N,N", help="claims to train and report on (default: all)")
    parser.add_argument("--train", action="store_true", help="make the missing runs and measurements first")
    parser.add_argument("--seeds", default="21,22,23", help="seeds of every run (default: 21,22,23)")
    parser.add_argument("--preset", default="small", help="small, smoke or paper (default: small)")
    parser.add_argument(
        "--root",
        type=expand_home,
        default=Path("runs/claims"),
        help="folder of the runs (default: runs/claims)",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", nargs="+", default=[], help="configuration overrides for all runs"
    )
    parser.add_argument(
        "--out", type=expand_home, default=Path("docs/claims.md"), help="the page (default: docs/claims.md)"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Plan the runs of the claims, make what is missing if asked to, and write the page."""
    claims = choose_claims(arguments.only)
    jobs = plan(claims, arguments)
    failures = make_missing(claims, jobs, arguments.root) if arguments.train else {}
    trials = {claim.number: collect(claim, jobs) for claim in claims}
    for claim in claims:
        trial = trials[claim.number]
        if trial.num_missing:
            left = format_duration(trial.seconds_left)
            print(
                f"claim {claim.number}: {trial.num_missing} of {trial.num_planned} runs missing, about {left}"
            )
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(write_page(claims, trials), encoding="utf-8")
    print(arguments.out)
    if failures:
        print("failed:", *(f"  {name}: {reason}" for name, reason in failures.items()), sep="\n")
        raise SystemExit(1)


def choose_claims(only: str | None) -> list[Claim]:
    """The claims whose numbers are given, such as `1,13`; all without numbers.

    Raises:
        UserError: there is no claim of a number.
    """
    if only is None:
        return list(CLAIMS)
    known = {claim.number.split(",")[0]: None for claim in CLAIMS}
    wanted = [word.strip() for word in only.split(",")]
    for word in wanted:
        check_option("--only", word, known)
    return [claim for claim in CLAIMS if claim.number.split(",")[0] in wanted]


def plan(claims: Iterable[Claim], arguments: argparse.Namespace) -> dict[str, list[Job]]:
    """The runs of every arm of the claims, one for each seed, by the arm's name.

    Raises:
        UserError: a configuration is invalid.
    """
    arms = {arm.name: arm for claim in claims for arm in claim.arms}
    seeds, shared = parse_seeds(arguments.seeds), (*EVERYWHERE, *arguments.set, f"preset={arguments.preset}")
    jobs: dict[str, list[Job]] = {}
    for arm in tqdm(arms.values(), desc="planning", unit="arm", delay=2, leave=False):
        names = [f"{name_run(arm)}-{arguments.preset}-s{seed}" for seed in seeds]
        own = (f"run.root={arguments.root}", f"run.name={names[0]}", f"seed={seeds[0]}")
        first = plan_job(find(arm.file), (*arm.overrides, *shared, *own))
        others = [reseed(first, seed, name) for seed, name in zip(seeds[1:], names[1:], strict=True)]
        jobs[arm.name] = [first, *others]
    return jobs


def reseed(job: Job, seed: int, name: str) -> Job:
    """The same run with another seed and name, without reading its files again."""
    config = replace(job.config, seed=seed, run=replace(job.config.run, name=name))
    stages = list_stages(config, job.source, Path(config.run.root) / name)
    overrides = (*job.overrides[:-2], f"run.name={name}", f"seed={seed}")
    return replace(job, overrides=overrides, config=config, stages=tuple(stages))


def name_run(arm: Arm) -> str:
    """An arm's name as a folder name: letters, digits and dots, all else as one hyphen."""
    kept = "".join(letter if letter.isalnum() or letter == "." else " " for letter in arm.name.lower())
    return "-".join(kept.split())


def make_missing(claims: Iterable[Claim], jobs: Mapping[str, list[Job]], root: Path) -> dict[str, str]:
    """Train the missing runs, seed by seed, then make the missing measurements.

    Returns:
        Reasons of failed runs, by name.
    """
    by_seed = [job for group in zip(*jobs.values(), strict=True) for job in group]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # on SIGTERM, too, a run saves its state
    with interruptible():
        failures = train_campaign(by_seed, root / "logs")
        for claim in claims:
            for job in (job for arm in claim.arms for job in jobs[arm.name] if job.finished):
                for name in claim.measures:
                    if not measured_file(job, name).exists():
                        failures |= make_measurement(job, name)
    return failures


def measured_file(job: Job, name: str) -> Path:
    """The JSON of a measurement of a run, in a folder named by its weights."""
    code = next(stage for stage in job.stages if stage.name == "code")
    return job.folder / "claims" / code.hash / MEASURES[name].file


def make_measurement(job: Job, name: str) -> dict[str, str]:
    """Measure a run in a process of its own; returns the reason if that failed, by name."""
    words, out = list_words(job, name), measured_file(job, name).with_name(MEASURES[name].out)
    out.parent.mkdir(parents=True, exist_ok=True)
    print(" ".join(["disdiff", *words]), flush=True)
    done = subprocess.run([sys.executable, "-P", "-m", "disdiff", *words], stderr=subprocess.PIPE, text=True)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {f"{name} of {job.name}": last} if done.returncode else {}


def list_words(job: Job, name: str) -> list[str]:
    """Words of the command, after `disdiff`, that measures a run."""
    out = measured_file(job, name).with_name(MEASURES[name].out)
    command, *options = MEASURES[name].words
    return [command, str(job.folder), *options, "--out", str(out)]


def collect(claim: Claim, jobs: Mapping[str, list[Job]]) -> Trial:
    """What there is of a claim's runs.

    Raises:
        UserError: its runs have different data or no common protocol.
    """
    results: dict[str, list[Values]] = {arm.name: [] for arm in claim.arms}
    images, seconds, missing, left = [], [], 0, 0.0
    finished = {arm.name: [job for job in jobs[arm.name] if job.finished] for arm in claim.arms}
    loaded = [(job.folder, load_metrics(job.folder)) for group in finished.values() for job in group]
    check_same_data(loaded)
    protocol = choose_protocol(loaded, None) if loaded else None
    records = {path: (read_run(path, metrics, protocol), metrics) for path, metrics in loaded}
    for arm in claim.arms:
        known = [job.seconds for job in finished[arm.name]]
        expected = sum(known) / len(known) if known else 60 * arm.minutes
        for job in jobs[arm.name]:
            whole = job in finished[arm.name] and all(measured_file(job, m).exists() for m in claim.measures)
            if not whole:
                missing, left = missing + 1, left + (expected if job not in finished[arm.name] else 60.0)
                continue
            record, metrics = records[job.folder]
            results[arm.name].append(record.values | read_further(claim, job, metrics))
            images.append(metrics["stages"]["code"]["images"])
            seconds.append(metrics["stages"]["code"]["seconds"])
    some = next((record for record, _ in records.values()), None)
    return Trial(
        results,
        f"{name_data(some.data, some.procedural)}, {protocol}" if some else "",
        images,
        seconds,
        sum(len(jobs[arm.name]) for arm in claim.arms),
        missing,
        left,
        {arm.name: list_commands(jobs[arm.name][0], claim) for arm in claim.arms},
    )


def read_further(claim: Claim, job: Job, metrics: dict[str, Any]) -> Values:
    """Values of a run beside those of comparison tables: swaps by factor, and the claim's measurements."""
    success = (metrics.get("editing") or {}).get("success", {})
    values = {f"Swaps right: {factor}": value for factor, value in success.items()}
    for name in claim.measures:
        values |= MEASURES[name].read(load_json(measured_file(job, name)))
    return values


def list_commands(job: Job, claim: Claim) -> list[str]:
    """Commands that train and measure a run."""
    measured = [" ".join(["disdiff", *list_words(job, name)]) for name in claim.measures]
    return [job.command, *measured]
