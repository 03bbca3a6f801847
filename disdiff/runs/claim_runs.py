"""The runs behind the page of claims: plan them, measure them, and keep what the page needs of each.

Of every finished run a record stays, a small JSON with its values. Records outlive the runs' folders, so the
page can be written and continued where the runs are gone.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from shutil import copyfile
from statistics import mean
from typing import Any

from tqdm import tqdm

from disdiff.config.places import find
from disdiff.editing.unit_names import name_data
from disdiff.report.claims import SHARED, Claim, Measure
from disdiff.report.claims_page import Trial
from disdiff.report.comparison import load_metrics, read_run
from disdiff.report.verdicts import Arm
from disdiff.runs.campaign import Job, plan_job
from disdiff.runs.results import describe_evaluation
from disdiff.runs.stages import list_stages
from ldm.data.source import describe_source
from ldm.errors import UserError
from ldm.files import digest_json, load_json, save_json

Values = dict[str, float]


@dataclass
class Record:
    """What the page needs of a finished run.

    Attributes:
        identity: hash of everything that the values depend on, except for the code.
        data: name of the data set and the protocol of the scores.
        images: training images of the run's own stage.
        seconds: time of that stage and of the evaluation.
        values: values of the run's own results, by row.
        measured: values of measurements, by place in the JSON file, by name of the measure.
    """

    identity: str
    data: str
    images: int
    seconds: float
    values: Values
    measured: dict[str, Values] = field(default_factory=dict)

    def read(self, measures: Iterable[Measure]) -> Values:
        """All values by row, those of `measures` included."""
        values = dict(self.values)
        for measure in measures:
            values |= {measure[place]: value for place, value in self.measured[measure.name].items()}
        return values


@dataclass(frozen=True)
class ClaimRun:
    """One run of an arm.

    Attributes:
        name: name of the run and of its record.
        folder: the run folder.
        work: folder of the measurements; the run folder except for a model that ships.
        seed: seed of the training, or of the test images of a model that ships.
        job: the training; None for a model that ships.
        records: folder of the records.
    """

    name: str
    folder: Path
    work: Path
    seed: int
    job: Job | None
    records: Path

    @property
    def finished(self) -> bool:
        """Whether the run folder has results of the planned configuration."""
        return self.job is None or self.job.finished

    @cached_property
    def identity(self) -> str:
        """Hash (12 digits) of the stages, the evaluation and the data."""
        if self.job is None:
            content: Any = load_metrics(self.folder)["stages"]
        else:
            stages = {stage.name: stage.hash for stage in self.job.stages}
            content = [stages, describe_evaluation(self.job.config), describe_source(self.job.source)]
        return digest_json(content)

    @property
    def record_file(self) -> Path:
        """File of the record."""
        return self.records / f"{self.name}.json"

    def find_record(self) -> Record | None:
        """The record of exactly this run, kept or made from the run folder; None if there is neither."""
        if self.record_file.exists():
            record = Record(**load_json(self.record_file))
            if record.identity == self.identity:
                return record
        return self.make_record() if self.finished else None

    def make_record(self) -> Record:
        """Read the finished run's folder, and keep the record."""
        metrics = load_metrics(self.folder)
        protocol = next(iter(metrics["scores"] or {}), None)
        values = read_run(self.folder, metrics, protocol).values
        success = (metrics.get("editing") or {}).get("success", {})
        values |= {f"Swaps right: {factor}": value for factor, value in success.items()}
        data, stage = metrics["dataset"], metrics["stages"]["code"]
        name = f"{name_data(data['name'], data['procedural'])}, {protocol}"
        seconds = 0.0 if self.job is None else self.job.seconds
        record = Record(self.identity, name, stage["images"], seconds, values)
        save_json(self.record_file, asdict(record))
        return record

    def lacks(self, measures: Iterable[Measure]) -> bool:
        """Whether there is no record of the run, or one without the values of `measures`."""
        record = self.find_record()
        return record is None or any(measure.name not in record.measured for measure in measures)

    def words(self, measure: Measure) -> list[str]:
        """Words of the command, after `disdiff`, that makes a measurement."""
        seed = () if self.job else ("--seed", str(self.seed))
        path = self.work / "claims" / f"{self.identity}-{measure.name}{measure.suffix}"
        return [measure.name, str(self.folder), *measure.options, *seed, "--out", str(path)]

    @property
    def images(self) -> int:
        """Training images of the run's own stage, as planned."""
        return (
            self.job.config.code.train.images
            if self.job
            else load_metrics(self.folder)["stages"]["code"]["images"]
        )


def plan_runs(
    arms: Iterable[Arm],
    seeds: Sequence[int],
    preset: str,
    root: Path,
    overrides: Sequence[str],
    records: Path,
) -> dict[str, list[ClaimRun]]:
    """The runs of every arm, one for each seed, by the arm's name.

    Raises:
        UserError: a configuration is invalid.
    """
    planned: dict[str, list[ClaimRun]] = {}
    for arm in tqdm(arms, desc="planning", unit="arm", delay=2, leave=False):
        ending = "" if arm.ships else f"-{preset}"
        names = [f"{name_run(arm)}{ending}-s{seed}" for seed in seeds]
        jobs: list[Job | None] = [None] * len(seeds)
        if not arm.ships:
            shared = (*SHARED, *arm.overrides, *overrides, f"preset={preset}", f"run.root={root}")
            first = plan_job(find(arm.file), (*shared, f"run.name={names[0]}", f"seed={seeds[0]}"))
            others = (reseed(first, *pair) for pair in zip(seeds[1:], names[1:], strict=True))
            jobs = [first, *others]
        planned[arm.name] = [
            ClaimRun(name, job.folder if job else find(arm.file), root / name, seed, job, records)
            for name, seed, job in zip(names, seeds, jobs, strict=True)
        ]
    return planned


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


def measure_runs(
    claim: Claim, planned: Mapping[str, list[ClaimRun]], pictures: Path, say: Callable[[str], None]
) -> dict[str, str]:
    """Make the measurements that a claim's finished runs lack, each by its command, and keep the values.

    Args:
        claim: the claim.
        planned: runs by arm.
        pictures: folder for the measurements' pictures of the first seed.
        say: called with every command.

    Returns:
        Reasons of failures, by name.
    """
    failures = {}
    for arm, measure in product(claim.arms, claim.measures):
        for run in planned[arm.name]:
            record = run.find_record()
            if record is None or measure.name in record.measured or not run.finished:
                continue
            words = run.words(measure)
            if reason := run_command(words, say):
                failures[f"{measure.name} of {run.name}"] = reason
                continue
            made = Path(words[-1])
            values = read_values(measure, load_json(made.with_suffix(".json")))
            measured = {**record.measured, measure.name: values}
            save_json(run.record_file, asdict(replace(record, measured=measured)))
            if made.suffix == ".png" and run is planned[arm.name][0]:
                pictures.mkdir(parents=True, exist_ok=True)
                copyfile(made, pictures / name_picture(run, measure))
    return failures


def run_command(words: Sequence[str], say: Callable[[str], None]) -> str | None:
    """Run `disdiff` with `words`, the last of which is the output path, unless that exists.

    Returns:
        The reason of a failure, or None.
    """
    if Path(words[-1]).exists():
        return None
    say(shlex.join(["disdiff", *words]))
    done = subprocess.run([sys.executable, "-P", "-m", "disdiff", *words], stderr=subprocess.PIPE, text=True)
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None


def collect(claim: Claim, planned: Mapping[str, list[ClaimRun]], pictures: Path) -> Trial:
    """What there is of a claim's runs; `pictures` is the folder of their pictures.

    Raises:
        UserError: its runs have different data or protocols.
    """
    results: dict[str, list[Values]] = {arm.name: [] for arm in claim.arms}
    records, missing, left = [], 0, 0.0
    for arm in claim.arms:
        found = [run.find_record() for run in planned[arm.name]]
        known = [record.seconds for record in found if record]
        expected = mean(known) if known else 60 * arm.minutes
        for run, record in zip(planned[arm.name], found, strict=True):
            if record and not run.lacks(claim.measures):
                records.append(record)
                results[arm.name].append(record.read(claim.measures))
            else:
                missing, left = missing + 1, left + (60 * len(claim.measures) if record else expected)
    data = {record.data for record in records}
    if len(data) > 1:
        raise UserError(
            f"runs of claim {claim.number} are on {' and '.join(sorted(data))}; compare one of them"
        )
    firsts = [planned[arm.name][0] for arm in claim.arms]
    shown = [name_picture(*pair) for pair in product(firsts, claim.measures)]
    return Trial(
        results=results,
        data="".join(data),
        images=[record.images for record in records] or [run.images for run in firsts],
        seconds=[record.seconds for record in records],
        num_planned=sum(len(planned[arm.name]) for arm in claim.arms),
        num_missing=missing,
        seconds_left=left,
        pictures=[f"{pictures.name}/{name}" for name in shown if (pictures / name).exists()],
    )


def name_picture(run: ClaimRun, measure: Measure) -> str:
    """File name of a measurement's picture."""
    return f"{run.name}-{measure.name}.png"


def read_values(measure: Measure, content: Any) -> Values:
    """The values of a measurement by their place in its JSON; those that are missing are left out."""
    values = {}
    for place in measure.rows:
        value = content
        for key in place.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            values[place] = value
    return values
