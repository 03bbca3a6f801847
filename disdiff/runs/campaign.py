"""Train a campaign: every combination of configurations and seeds, one run after the other.

Each run is a separate process, `disdiff train --base FILE ...`. Its memory is freed at the end, and a crash
or lack of memory ends only that run. A stopped campaign leaves checkpoints, from which the same command
continues. The first run that needs a shared stage trains it. Runs are ordered by seed, so that an incomplete
campaign still has all configurations for the first seeds.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from disdiff.build import build_source, get_system
from disdiff.config.places import find
from disdiff.config.schema import CONFIGS, Config, load_config
from disdiff.runs.results import results_are_current, summarise
from disdiff.runs.stages import OF_ONE_RUN, Stage, list_stages
from ldm.data.source import ImageSource
from ldm.errors import UserError
from ldm.files import load_json
from ldm.training.log import format_duration

MAIN_JOB = ("-P", "-m", "disdiff", "train")  # -P: do not import from the working directory
STOP_SECONDS = 60  # time that an interrupted run has to stop
NARROW = 60  # characters of a run's last line that are shown beside the bar
ShowLine = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One run of a campaign.

    Attributes:
        file: configuration file.
        overrides: overrides of the configuration, including the seed.
        config: the resulting configuration.
        stages: stages of the run.
        source: data set of the run.
    """

    file: Path
    overrides: tuple[str, ...]
    config: Config
    stages: tuple[Stage, ...]
    source: ImageSource

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.config.run.name

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.config.run.root) / self.name

    @property
    def arguments(self) -> list[str]:
        """Command-line arguments of `disdiff train` for this run."""
        return ["--base", str(self.file), *self.overrides]

    @property
    def command(self) -> str:
        """The command that trains this run by itself."""
        return " ".join(["disdiff train", *self.arguments])

    @property
    def finished(self) -> bool:
        """Whether the run has results for this configuration."""
        return results_are_current(self.folder, self.config, list(self.stages), self.source)

    @property
    def state(self) -> str:
        """Progress of the run in words, such as `finished`."""
        if self.finished:
            return "finished"
        own = next(stage for stage in self.stages if stage.name in OF_ONE_RUN)
        if own.trained:
            return "trained, to be evaluated"
        return "started, will continue" if (own.folder / "resume.ckpt").exists() else "to be trained"

    @property
    def seconds(self) -> float:
        """Time of a finished run without its shared stages."""
        metrics = load_json(self.folder / "metrics.json")
        shared = [record for name, record in metrics["stages"].items() if name not in OF_ONE_RUN]
        return metrics["seconds_total"] - sum(record["seconds"] for record in shared)


@dataclass(frozen=True)
class Campaign:
    """The runs of a campaign.

    Attributes:
        jobs: runs, ordered by seed.
        same: configurations that are left out, each with the one that it equals under this preset.
    """

    jobs: list[Job]
    same: dict[str, str]


def find_configs(systems: Iterable[str], data: str) -> list[Path]:
    """The configuration files of systems on a data set.

    Raises:
        UserError: a system has no configuration for the data set.
    """
    known = sorted(path.parent.name for path in CONFIGS.glob(f"*/{data}.yaml") if path.parent.name[0] != "_")
    for system in systems:
        if system not in known:
            raise UserError(f"there is no configs/{system}/{data}.yaml; choose among {', '.join(known)}")
    shipped = [CONFIGS / system / f"{data}.yaml" for system in systems]
    # relative to the package root as a user would type it, unless that names another file here
    named = [path.relative_to(CONFIGS.parent) for path in shipped]
    return [name if find(name).samefile(path) else path for name, path in zip(named, shipped, strict=True)]


def plan_campaign(
    files: list[Path], seeds: list[int], overrides: list[str], several: bool = False
) -> Campaign:
    """Plan the runs of every configuration with every seed, and check them before training.

    Args:
        files: configuration files.
        seeds: seeds of the last stage.
        overrides: overrides of all configurations.
        several: whether the configurations have several data sets, each with a table of its own.

    Raises:
        UserError: a configuration is invalid or has no code, two configurations of one table differ in data
            or evaluation, or several runs would share a folder.
    """
    jobs, same, known = [], {}, {}
    for seed in dict.fromkeys(seeds):
        for file in dict.fromkeys(files):
            job = plan_job(file, (*overrides, f"seed={seed}"))
            twin = known.setdefault((job.config.system, *(stage.hash for stage in job.stages)), job)
            if twin is job:
                jobs.append(job)
            else:
                same[str(file)] = str(twin.file)
            beside = [
                other for other in jobs if not several or other.config.data.name == job.config.data.name
            ]
            check_comparable(beside[0], job)
    if len({job.folder for job in jobs}) < len(jobs):
        raise UserError("several runs would share a folder; leave out run.name, or give each file once")
    return Campaign(jobs, same)


def plan_job(file: Path, overrides: tuple[str, ...]) -> Job:
    """Plan one run of a configuration; UserError if the configuration is invalid or has no code."""
    config = load_config([file], list(overrides))
    if not get_system(config).has_code:
        raise UserError(f"{file} configures {config.system}, which has no code to compare; leave it out")
    folder = Path(config.run.root) / config.run.name
    source = build_source(config.data)
    return Job(file, overrides, config, tuple(list_stages(config, source, folder)), source)


def check_comparable(first: Job, job: Job) -> None:
    """Raise UserError if two runs have different data or evaluation: their scores are not comparable."""
    for section in ("data", "evaluation"):
        if getattr(first.config, section) != getattr(job.config, section):
            raise UserError(
                f"{first.file} and {job.file} differ in {section}, so their scores are not comparable; "
                "train and compare them separately"
            )


def describe_campaign(campaign: Campaign) -> list[str]:
    """Lines that list finished and missing runs, and the expected training time."""
    jobs = campaign.jobs
    users: dict[Path, list[Stage]] = {}
    for stage in (stage for job in jobs for stage in job.stages if stage.name not in OF_ONE_RUN):
        users.setdefault(stage.folder, []).append(stage)
    lines = ["shared stages"] if users else []
    for folder, stages in users.items():
        state = "trained" if stages[0].trained else "to be trained"
        lines.append(f"  {folder}: {state}, for {len(stages)} of {len(jobs)} runs")
    width = max(len(job.name) for job in jobs)
    lines += ["runs", *(f"  {job.name:<{width}}  {job.state}" for job in jobs)]
    lines += [f"{file} equals {twin} here; one run serves both" for file, twin in campaign.same.items()]
    finished, left = split_jobs(jobs)
    lines.append(f"{len(finished)} of {len(jobs)} runs finished, {len(left)} to train")
    if left and finished:
        seconds = sum(expect_seconds(job, finished) for job in left)
        lines[-1] += f", about {format_duration(seconds)} without shared stages, estimated from finished runs"
    return lines


def split_jobs(jobs: list[Job]) -> tuple[list[Job], list[Job]]:
    """Split runs into finished and unfinished ones."""
    done = [job.finished for job in jobs]
    pairs = list(zip(jobs, done, strict=True))
    return [job for job, is_done in pairs if is_done], [job for job, is_done in pairs if not is_done]


def expect_seconds(job: Job, finished: list[Job]) -> float:
    """Expected seconds of a run: the mean of `finished` runs with its configuration, else of all of them."""
    seconds = [other.seconds for other in finished if other.file == job.file]
    return mean(seconds or [other.seconds for other in finished])


def train_campaign(
    jobs: list[Job], logs: Path, run: Callable[[Job, Path, ShowLine], str | None] | None = None
) -> dict[str, str]:
    """Train the unfinished runs, with a progress bar over all runs.

    Args:
        jobs: runs, in order.
        logs: folder for the log of each run.
        run: trains one run and returns the reason if it failed, else None; by default in a separate process.

    Returns:
        Reasons of failed runs, by name.
    """
    run, failures = run or run_job, {}
    with tqdm(total=len(jobs), unit="run", bar_format=BAR, dynamic_ncols=True) as bar:
        for place, job in enumerate(jobs):
            bar.n = place
            if job.finished:
                continue
            bar.set_description_str(job.name)
            reason = run(job, logs / f"{job.name}.log", Watch(bar, jobs, place))
            if reason is None and not job.finished:
                reason = "the run ended without results"
            if reason is None:
                bar.write(f"{job.name}: {summarise(load_json(job.folder / 'metrics.json'))}")
            else:
                failures[job.name] = reason
                bar.write(f"{job.name}: FAILED: {reason}")
        bar.n = len(jobs)
        bar.set_description_str("campaign")
        bar.set_postfix_str("done")
    return failures


BAR = "{desc}: {percentage:3.0f}%|{bar:12}| {n:.1f} of {total} runs, {elapsed}{postfix}"


class Watch:
    """Shows the last output line of a run and the remaining time of the campaign.

    The remaining time is estimated from finished runs (`expect_seconds`).
    """

    def __init__(self, bar: tqdm, jobs: list[Job], place: int) -> None:
        self.bar, self.place, self.start = bar, place, time.monotonic()
        finished, left = split_jobs(jobs)
        later = [job for job in left if jobs.index(job) >= place]  # earlier unfinished runs have failed
        self.seconds = [expect_seconds(job, finished) for job in later] if finished else []

    def __call__(self, line: str) -> None:
        """Show `line`."""
        elapsed, says = time.monotonic() - self.start, ""
        if self.seconds:
            self.bar.n = self.place + min(elapsed / self.seconds[0], 0.99)
            left = max(self.seconds[0] - elapsed, 0) + sum(self.seconds[1:])
            says = f"about {format_duration(left)} left; "
        text = " ".join(line.split())
        self.bar.set_postfix_str(says + (text[:NARROW] + "..." if len(text) > NARROW else text))


def run_job(job: Job, log: Path, show_line: ShowLine) -> str | None:
    """Train a run in a separate process; returns the reason if it failed, else None.

    `log` is the file for its output without progress bars; `show_line` is called with every line.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", *MAIN_JOB, *job.arguments]
    process = subprocess.Popen(  # in its own session, so that only `stop` interrupts it, once
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True, preexec_fn=heed_interrupts if os.name == "posix" else None,
    )  # fmt: skip
    last = ""
    try:
        with log.open("a", encoding="utf-8") as file:
            for line in process.stdout:
                show_line(line)
                if line.strip() and "%|" not in line:
                    file.write(line)
                    last = line.strip()
        return explain_end(process.wait(), last, log)
    except BaseException:
        stop(process)
        raise
    finally:
        process.stdout.close()


def heed_interrupts() -> None:
    """Make a child process interruptible even if this process, in a shell's background, ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python then raises KeyboardInterrupt


def stop(process: subprocess.Popen) -> None:
    """Interrupt a process so that it saves its state; kill it if it does not end."""
    if os.name == "posix":
        process.send_signal(signal.SIGINT)
    else:  # Windows has no such signal; training continues from the last checkpoint
        process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def explain_end(status: int, last: str, log: Path) -> str | None:
    """The reason why a process failed, from its exit status and last output line; None for success."""
    if status == 0:
        return None
    if status < 0:
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}; see {log}"
    return f"{last.removeprefix('error: ') or f'it ended with status {status}'} (see {log})"
