"""A campaign: configurations times seeds, each run trained by the main job, one after the other.

Every run is a process of its own, the command `disdiff train --base FILE ...` that anyone may repeat: its
memory is freed, a crash or a kill for want of memory ends that run alone, and a stopped campaign leaves what
a stopped main job leaves, checkpoints from which the same command goes on. The first run that needs a shared
stage trains it. Runs go seed by seed, so that a campaign that is cut short compares all over fewer seeds.
"""

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

MAIN_JOB = ("-P", "-m", "disdiff", "train")  # -P: nothing in the working directory is imported
STOP_SECONDS = 60  # that a run has to stop once it is told to
NARROW = 60  # characters of a run's last line beside the bar
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        file: its configuration.
        overrides: of it, the seed included.
        config: what both make.
        stages: that it needs.
        source: its data set.
    """

    file: Path
    overrides: tuple[str, ...]
    config: Config
    stages: tuple[Stage, ...]
    source: ImageSource

    @property
    def name(self) -> str:
        """Of the run."""
        return self.config.run.name

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.run.root) / self.name

    @property
    def arguments(self) -> list[str]:
        """Of the main job."""
        return ["--base", str(self.file), *self.overrides]

    @property
    def command(self) -> str:
        """What makes this run alone."""
        return " ".join(["disdiff train", *self.arguments])

    @property
    def finished(self) -> bool:
        """Whether its results are there, of this very configuration."""
        return results_are_current(self.folder, self.config, list(self.stages), self.source)

    @property
    def state(self) -> str:
        """`finished`, or how far it is."""
        if self.finished:
            return "finished"
        own = next(stage for stage in self.stages if stage.name in OF_ONE_RUN)
        if own.trained:
            return "trained, to be evaluated"
        return "begun, goes on" if (own.folder / "resume.ckpt").exists() else "to be trained"

    @property
    def seconds(self) -> float:
        """That a finished run took beyond its shared stages."""
        metrics = load_json(self.folder / "metrics.json")
        shared = [record for name, record in metrics["stages"].items() if name not in OF_ONE_RUN]
        return metrics["seconds_total"] - sum(record["seconds"] for record in shared)


@dataclass(frozen=True)
class Campaign:
    """Runs to make.

    Attributes:
        jobs: seed by seed.
        same: name of a configuration that is left out, and of the one that it equals under this preset.
    """

    jobs: list[Job]
    same: dict[str, str]


def find_configs(systems: Iterable[str], data: str) -> list[Path]:
    """The configuration files of systems on a data set.

    Raises:
        UserError: a system has none.
    """
    known = sorted(path.parent.name for path in CONFIGS.glob(f"*/{data}.yaml") if path.parent.name[0] != "_")
    for system in systems:
        if system not in known:
            raise UserError(f"there is no configs/{system}/{data}.yaml; choose among {', '.join(known)}")
    shipped = [CONFIGS / system / f"{data}.yaml" for system in systems]
    # as the caller would name them, unless that is another file here
    named = [path.relative_to(CONFIGS.parent) for path in shipped]
    return [name if find(name).samefile(path) else path for name, path in zip(named, shipped, strict=True)]


def plan_campaign(files: list[Path], seeds: list[int], overrides: list[str]) -> Campaign:
    """The runs of every configuration with every seed, checked before any is trained.

    Raises:
        UserError: a configuration is bad or finds no code, two differ in data or evaluation, or runs of
            several would share a folder.
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
            check_comparable(jobs[0], job)
    if len({job.folder for job in jobs}) < len(jobs):
        raise UserError("several runs would share a folder; leave out run.name, or name each file once")
    return Campaign(jobs, same)


def plan_job(file: Path, overrides: tuple[str, ...]) -> Job:
    """One run of a configuration.

    Raises:
        UserError: the configuration is bad or finds no code.
    """
    config = load_config([file], list(overrides))
    if get_system(config).build_model is None:
        raise UserError(f"{file} is of {config.system} alone, which finds no code to compare; leave it out")
    folder = Path(config.run.root) / config.run.name
    source = build_source(config.data)
    return Job(file, overrides, config, tuple(list_stages(config, source, folder)), source)


def check_comparable(first: Job, job: Job) -> None:
    """Refuse runs whose numbers would not compare.

    Raises:
        UserError: data or evaluation differ.
    """
    for section in ("data", "evaluation"):
        if getattr(first.config, section) != getattr(job.config, section):
            raise UserError(
                f"{first.file} and {job.file} differ in {section}, so that their numbers do not compare; "
                "train and compare them apart"
            )


def describe_campaign(campaign: Campaign) -> list[str]:
    """Lines that say what exists already, what would be trained, and about how long that takes."""
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
    lines += [f"{file} is the same as {twin} here: one run for both" for file, twin in campaign.same.items()]
    finished, left = split_jobs(jobs)
    lines.append(f"{len(finished)} of {len(jobs)} runs finished, {len(left)} to make")
    if left and finished:
        seconds = sum(expect_seconds(job, finished) for job in left)
        lines[-1] += f", about {format_duration(seconds)} beyond shared stages, by the finished ones"
    return lines


def split_jobs(jobs: list[Job]) -> tuple[list[Job], list[Job]]:
    """Those that are finished and those that are not."""
    done = [job.finished for job in jobs]
    pairs = list(zip(jobs, done, strict=True))
    return [job for job, is_done in pairs if is_done], [job for job, is_done in pairs if not is_done]


def expect_seconds(job: Job, finished: list[Job]) -> float:
    """Seconds that a run will take: the mean of `finished` runs of its configuration, else of all of them."""
    seconds = [other.seconds for other in finished if other.file == job.file]
    return mean(seconds or [other.seconds for other in finished])


def train_campaign(
    jobs: list[Job], logs: Path, run: Callable[[Job, Path, Tell], str | None] | None = None
) -> dict[str, str]:
    """Make the runs that are not finished, under a bar over all of them.

    Args:
        jobs: in order.
        logs: folder for what each run says.
        run: makes one run and returns why it failed, or None; by default in a process of its own.

    Returns:
        Why runs failed, by name.
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
                reason = "it ended without its results"
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
    """Called with what a run says: shows the last of it, and what is left of the campaign.

    What is left is known where finished runs tell how long one takes (`expect_seconds`).
    """

    def __init__(self, bar: tqdm, jobs: list[Job], place: int) -> None:
        self.bar, self.place, self.start = bar, place, time.monotonic()
        finished, left = split_jobs(jobs)
        later = [job for job in left if jobs.index(job) >= place]  # those before have failed
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


def run_job(job: Job, log: Path, tell: Tell) -> str | None:
    """Make a run in a process of its own.

    Args:
        job: the run.
        log: takes what the process says, but for its progress bars.
        tell: is called with every line.

    Returns:
        Why it failed, or None.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", *MAIN_JOB, *job.arguments]
    process = subprocess.Popen(  # in a session of its own, so that an interrupt reaches it once, through here
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True, preexec_fn=heed_interrupts,
    )  # fmt: skip
    last = ""
    try:
        with log.open("a", encoding="utf-8") as file:
            for line in process.stdout:
                tell(line)
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
    """Let a process be interrupted even if we, in the background of a shell, are told to ignore that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # for which Python puts its KeyboardInterrupt


def stop(process: subprocess.Popen) -> None:
    """Interrupt a process, which saves its state; kill it when it does not end."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def explain_end(status: int, last: str, log: Path) -> str | None:
    """Why a process failed, from its exit status and the last line it said; None for success."""
    if status == 0:
        return None
    if status < 0:
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}; see {log}"
    return f"{last.removeprefix('error: ') or f'it ended with status {status}'} (see {log})"
