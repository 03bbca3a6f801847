"""Measure a GPU within some minutes: training steps, memory, then DisDiff with and without L_dis.

usage:
  python benchmarks/gpu.py --minutes 8                          everything, sizes `paper` and `small`
  python benchmarks/gpu.py --minutes 30                         again: keeps the rows, and the curves go on
  python benchmarks/gpu.py --minutes 8 --out results --runs /scratch/runs
  python benchmarks/gpu.py --minutes 1 --device cpu --size tiny     a trial without a GPU

The command ends within --minutes, not counting its own imports, with complete files `gpu.json` and
`gpu.png`. All work is done by a child process, which is ended when its time is over; the JSON is written
after every measurement.

1. Steps per second and peak memory of each stage, in every mode, for at most 40 % of the time. The trainer is
   that of `disdiff train`, with the preset's batch on that device and random weights, without pictures and
   checkpoints. The first stage reads procedural images, the others latents that are kept on the device.
2. The same compiled, for at most 20 % of the time; a compilation that takes longer is left out.
3. The curves of the first --size, in what is left: DisDiff with and without L_dis, in turn to the same
   numbers of images, each scored by FactorVAE, DCI and MIG (protocol `fast`, 2000 images).

The first two stages of `paper` take many hours. Here they share 40 % of the time that is left for part 3, so
what is frozen below these curves is much worse than in a full run, and the scores are not the preset's. The
first stage of the curves has no discriminator, which needs longer, and no first stage has LPIPS, whose
weights may be missing. Warm-ups are shorter, and 50,000 images are encoded. `training.overrides` in the JSON
lists all differences. What the curves can show is whether L_dis makes a difference early in training.

gpu.json:
  machine      processor, device, versions, date
  calls        minutes of each call
  rows         by `size/stage/mode`: batch_size, steps, seconds, steps_per_second, images_per_second,
               peak_memory_mb; with compilation `frames` of Python code, and `frames_compiled` of them; or
               `failed`, or `out_of_time` (tried again by the next call)
  training     size, overrides by variant, first_stages (their records: seconds, steps, images, scores),
               curves by variant (points as in `growth.py`), and `failed` if something did
"""

import argparse
import gc
import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from growth import Point, add_point, draw_curve, load_points, tell_point
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from timing import (
    CONFIG,
    STAGES,
    anonymous_megabytes,
    describe_machine,
    forget_peak,
    procedural_images,
    synchronise,
)
from worker import Worker

from disdiff.commands.terminal import begin_parser, run_script
from disdiff.config.schema import load_config
from disdiff.runs.context import Context, open_context
from disdiff.runs.training import train_first_stages, train_stage
from ldm.device import resolve_device
from ldm.errors import UserError
from ldm.files import atomic_path, load_json, save_json
from ldm.training.checkpoint import Paused
from ldm.training.optimizer import resolve_budget

TINY_UNET = "{channels: 8, channel_mult: [1, 2], num_res_blocks: 1, attention_levels: [], num_groups: 4}"
SIZES = {
    "paper": ["preset=paper", "autoencoder.loss.perceptual=none"],
    "small": ["preset=small"],
    "tiny": [
        "preset=smoke",
        "data.num_train=64",
        "autoencoder.network={patch: 4, channels: 8, channel_mult: [1, 2], num_groups: 4}",
        f"latent_diffusion.unet={TINY_UNET}",
        "code.encoder={channels: 8, hidden: 0}",
        "code.loss.whiten_ridge=null",
        *(f"{stage}.train.batch_size=8" for stage in STAGES),
    ],
}
BF16 = "trainer.precision=bf16"
PLAIN = {  # modes without compilation
    "float32": ["trainer.precision=float32"],
    "tf32": ["trainer.precision=tf32"],
    "bf16": [BF16],
    "bf16_channels_last": [BF16, "trainer.channels_last=true"],
}
COMPILED = {
    "compiled": [BF16, "trainer.compile=default"],
    "cuda_graphs": [BF16, "trainer.compile=cuda_graphs"],
}
MODES = {**PLAIN, **COMPILED}
ON_CUDA = ("tf32", "cuda_graphs")  # modes that differ from others on CUDA only
ENDLESS = 10**9  # images of a stage that is stopped, not finished
# start and freezing change no cost of the later steps, and steps of pre-training are cheaper; pictures and
# checkpoints are left out
TIMING = [
    "code.loss.auxiliary.weight=0",
    "data.num_train=2048",
    "code.encoder.start=random",
    "code.encoder.freeze_steps=0",
    *(f"{stage}.train.{key}={ENDLESS}" for stage in STAGES for key in ("images", "preview_steps")),
]
SHORT = [  # of the curves
    "data.num_train=50000",
    "evaluation.num_images=2000",
    "autoencoder.loss.weight_gan=0",
    *(f"{stage}.train.warmup_steps=200" for stage in STAGES),
    f"code.train.images={ENDLESS}",
    "code.train.decay=constant",
]
VARIANTS = {"with L_dis": [], "without L_dis": ["code.loss.weight_disentangle=0"]}
MARKS = [number * 10**power for power in range(4, 8) for number in (1, 3)]  # images of the points
PROTOCOL = "fast"
PLAIN_SHARE, COMPILED_SHARE = 0.4, 0.2  # of the time
FIRST_STAGE_SHARE = 0.2  # of the time of the curves, for each of the first two stages
OVERHEAD = 10.0  # seconds of a point besides training, until one is measured
ROW_SHARE = 1 / 160  # of the time, for the timed steps of a row
WARM_UP = 5  # steps before the timed ones
SAFETY = 0.8  # share of a planned time that is used, as rates vary


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="time after which the command has ended")
    parser.add_argument(
        "--size",
        dest="sizes",
        nargs="+",
        choices=SIZES,
        default=["paper", "small"],
        help="sizes to measure; the first is trained (default: paper small)",
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: all that the device has")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: auto")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of gpu.json and gpu.png")
    parser.add_argument("--runs", type=Path, help="folder of checkpoints and latents (default: OUT/runs)")
    return parser


def open_run(words: list[str]) -> Context:
    """The context of a run of DisDiff on procedural Shapes3D."""
    fixed = ["data.procedural=always", "stages.pretrained=false"]
    context = open_context(load_config([CONFIG], [*fixed, *words]))
    return replace(context, source=procedural_images())


class StepClock:
    """Times steps after a warm-up: a `Pause` that ends training once it has timed about `seconds`.

    Attributes:
        steps: number of timed steps.
        taken: the seconds that they took.
        megabytes: peak memory in these steps: on CUDA of PyTorch's tensors, else of this process, or None.
    """

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds, self.cuda, self.last = seconds, device == "cuda", None

    def __call__(self, step: int) -> bool:
        """Called after step number `step`, counted from 1; whether that was the last."""
        if step in (WARM_UP - 1, WARM_UP, self.last):
            synchronise()
        now = time.perf_counter()
        if step == WARM_UP:
            self.steps = max(2, int(self.seconds / (now - self._start)))
            self.last = step + self.steps
            torch.cuda.reset_peak_memory_stats() if self.cuda else forget_peak()
            now = time.perf_counter()
        elif step == self.last:
            self.taken = now - self._start
            peak = torch.cuda.max_memory_allocated
            self.megabytes = peak() / 1e6 if self.cuda else anonymous_megabytes(peak=True)
            return True
        if step in (WARM_UP - 1, WARM_UP):
            self._start = now
        return False


def time_stage(words: list[str], stage: str, seconds: float) -> dict[str, Any]:
    """Train a stage from random weights for about `seconds` after a warm-up; returns its row."""
    from torch._dynamo.utils import counters  # here, as it takes seconds

    torch._dynamo.reset()  # with the networks and the graphs of the row before
    counters.clear()
    gc.collect()
    context = open_run(words)
    device = context.machine.device
    if device == "cuda":
        torch.cuda.empty_cache()
    part, clock = context.stages[stage], StepClock(seconds, device)
    shutil.rmtree(part.folder, ignore_errors=True)
    with suppress(Paused):
        train_stage(replace(context, pause=clock), stage)
    shutil.rmtree(part.folder)
    size = resolve_budget(getattr(context.config, stage).train, device).batch_size
    row = {
        "batch_size": size,
        "steps": clock.steps,
        "seconds": clock.taken,
        "steps_per_second": clock.steps / clock.taken,
        "images_per_second": size * clock.steps / clock.taken,
        "peak_memory_mb": clock.megabytes,
    }
    if context.machine.compile != "none":
        row |= {"frames": counters["frames"]["total"], "frames_compiled": counters["frames"]["ok"]}
    return row


def train_one(words: list[str], stage: str) -> dict[str, Any]:
    """Train one of the first stages after those before it; returns its record."""
    context = open_run(words)
    names = list(context.stages)
    below = {name: context.stages[name] for name in names[: names.index(stage) + 1]}
    train_first_stages(replace(context, stages=below))
    return below[stage].record


def extend_curve(words: list[str], images: int, seconds: float) -> list[Point]:
    """Train the code to `images` images, or for `seconds`, and score it; returns the points of the curve."""
    end = time.monotonic() + seconds
    context = open_run(words)
    train_first_stages(context)
    add_point(context, images, PROTOCOL, lambda step: time.monotonic() > end)
    return load_points(context.folder)


def plan_round(
    images: dict[str, int], rates: dict[str, float], seconds: float, overhead: float, batch_size: int
) -> tuple[list[str], int] | None:
    """What to train next: runs that are behind, else all of them to a mark, or as far as time allows.

    The mark is the next one for which training takes as long as the rest of a point.

    Args:
        images: images that each run has been trained on.
        rates: images per second of each run.
        seconds: the time left.
        overhead: seconds of a point besides training.
        batch_size: images of a step; all points are whole steps.

    Returns:
        The runs and the number of images to reach, or None if there is no time for a further point.
    """
    most = max(images.values())
    behind = [name for name, count in images.items() if count < most]
    runs = behind or list(images)
    marks = [mark // batch_size * batch_size for mark in MARKS]
    worth = most + max(1, overhead * min(rates.values()))
    target = most if behind else next((mark for mark in marks if mark >= worth), None)
    if target is None:
        return None
    free = SAFETY * (seconds - overhead * len(runs)) + sum(images[name] / rates[name] for name in runs)
    reach = int(free / sum(1 / rates[name] for name in runs)) // batch_size * batch_size
    target = min(target, reach)
    least = min(images[name] for name in runs) + batch_size if behind else max(1.2 * most, batch_size)
    return (runs, target) if target >= least else None


class Session:
    """One call of the command: its time, its child process and its JSON file."""

    def __init__(self, arguments: argparse.Namespace, device: str, worker: Worker) -> None:
        self.total = 60 * arguments.minutes
        spare = max(1.0, 0.04 * self.total)  # for the imports before, and the last files
        self.end = time.monotonic() + self.total - spare
        self.device, self.sizes, self.worker = device, arguments.sizes, worker
        self.modes = [mode for mode in arguments.modes or MODES if device == "cuda" or mode not in ON_CUDA]
        self.runs, self.path = arguments.runs or arguments.out / "runs", arguments.out / "gpu.json"
        empty = {"calls": [], "rows": {}, "training": {}}
        self.result: dict[str, Any] = load_json(self.path) if self.path.exists() else empty
        self.result["calls"].append(arguments.minutes)

    @property
    def left(self) -> float:
        """Seconds until all work has to be done."""
        return self.end - time.monotonic()

    def save(self) -> None:
        """Write the JSON."""
        save_json(self.path, self.result)

    def describe(self) -> None:
        """Note the machine.

        Raises:
            UserError: the file is of another machine.
        """
        machine = self.worker.run(describe_machine, seconds=self.left)
        earlier = self.result.setdefault("machine", machine)
        changed = [key for key in ("device", "processor", "versions") if earlier[key] != machine[key]]
        if changed:
            raise UserError(f"{self.path} is of another machine ({changed[0]} differs); choose another --out")
        self.save()

    def measure_rows(self, rows: list[tuple[str, str, str]], share: float) -> None:
        """Measure those of `rows` (size, stage, mode) that are missing, in a share of the time."""
        end = min(self.end, time.monotonic() + share * self.total)
        for size, stage, mode in rows:
            name = f"{size}/{stage}/{mode}"
            row = self.result["rows"].get(name, {})
            if row and "out_of_time" not in row:
                continue
            self.result["rows"][name] = self.measure_row(size, stage, mode, end - time.monotonic())
            self.save()
            say(f"{name}: {tell_row(self.result['rows'][name])}")

    def measure_row(self, size: str, stage: str, mode: str, seconds: float) -> dict[str, Any]:
        """One row, or why there is none."""
        place = [f"run.root={self.runs / 'timing'}", f"run.name={size}", f"trainer.device={self.device}"]
        words = [*TIMING, *SIZES[size], *MODES[mode], *place]
        if seconds <= 0:
            return {"out_of_time": "not started"}
        try:
            return self.worker.run(time_stage, words, stage, ROW_SHARE * self.total, seconds=seconds)
        except TimeoutError as error:
            return {"out_of_time": str(error)}
        except ChildProcessError as error:
            return {"failed": str(error)}

    def train(self) -> None:
        """Train the first two stages of the first size and draw the curves out, in what time is left."""
        size = self.sizes[0]
        known = self.result["training"]
        if known.setdefault("size", size) != size:
            raise UserError(f"{self.path} has curves of size {known['size']}; name it first, or choose --out")
        mode = "bf16" if self.device == "cuda" else "float32"  # what trainer.precision=auto takes
        rows = {stage: self.result["rows"].get(f"{size}/{stage}/{mode}", {}) for stage in STAGES}
        known.pop("failed", None)
        missing = [stage for stage in STAGES if "images_per_second" not in rows[stage]]
        if missing:
            known["failed"] = f"the rate of {missing[0]} in {mode} is not measured"
            return
        try:
            self.train_first(rows)
            self.extend_curves(rows["code"])
        except (TimeoutError, ChildProcessError) as error:
            known["failed"] = str(error)
        self.save()

    def words(self, variant: str) -> list[str]:
        """The overrides of a variant; the numbers of images of the first stages as once planned."""
        known = self.result["training"]
        images = [f"{stage}.train.images={count}" for stage, count in known.get("images", {}).items()]
        return [*SHORT, *SIZES[known["size"]], *images, *VARIANTS[variant]]

    def place(self, variant: str) -> list[str]:
        """The overrides that say where a variant runs."""
        name = variant.replace(" ", "-")
        return [f"run.root={self.runs}", f"run.name={name}", f"trainer.device={self.device}"]

    def train_first(self, rows: dict[str, dict[str, Any]]) -> None:
        """Train the first two stages, on as many images as their share of the time allows."""
        known, budget = self.result["training"], FIRST_STAGE_SHARE * self.left
        planned, records = known.setdefault("images", {}), known.setdefault("first_stages", {})
        for stage in ("autoencoder", "latent_diffusion"):
            row = rows[stage]
            fewest = 2 * row["batch_size"]
            planned.setdefault(stage, max(fewest, int(SAFETY * budget * row["images_per_second"])))
            known["overrides"] = {variant: self.words(variant) for variant in VARIANTS}
            self.save()
            if stage not in records:
                words = [*self.words("with L_dis"), *self.place("with L_dis")]
                records[stage] = self.worker.run(train_one, words, stage, seconds=self.left)
                say(f"{stage}: {planned[stage]} images in {records[stage]['seconds']:.0f} s")
                self.save()

    def extend_curves(self, row: dict[str, Any]) -> None:
        """Train and score both variants in turn, until the time is over."""
        curves = self.result["training"].setdefault("curves", {variant: [] for variant in VARIANTS})
        rates, overhead = dict.fromkeys(VARIANTS, row["images_per_second"]), OVERHEAD
        while True:
            images = {variant: points[-1]["images"] if points else 0 for variant, points in curves.items()}
            planned = plan_round(images, rates, self.left, overhead, row["batch_size"])
            if planned is None:
                return
            runs, target = planned
            for number, variant in enumerate(runs):
                seconds = self.left / (len(runs) - number) - overhead
                start, before = time.monotonic(), curves[variant][-1:]
                words = [*self.words(variant), *self.place(variant)]
                points = self.worker.run(extend_curve, words, target, seconds, seconds=self.left)
                curves[variant] = points
                self.save()
                last = points[-1]
                target = min(target, last["images"])  # both to the same number, if time cut this one short
                new = [last[key] - (before[0][key] if before else 0) for key in ("images", "seconds")]
                rates[variant] = new[0] / max(new[1], 1e-3)
                overhead = max(overhead, time.monotonic() - start - new[1])
                say(f"{variant}: {tell_point(last, PROTOCOL)}")


def list_rows(sizes: list[str], modes: list[str]) -> list[tuple[str, str, str]]:
    """(size, stage, mode) of all rows, mode by mode, the last stage first, as it takes the most time."""
    return [(size, stage, mode) for mode in modes for size in sizes for stage in reversed(STAGES)]


def tell_row(row: dict[str, Any]) -> str:
    """A row in words."""
    if "steps_per_second" not in row:
        return next(f"{key.replace('_', ' ')}: {value}" for key, value in row.items())
    memory = "" if row["peak_memory_mb"] is None else f", {row['peak_memory_mb']:.0f} MB"
    return f"{row['steps_per_second']:.3g} steps/s of {row['batch_size']} images{memory}"


def say(line: str) -> None:
    """Print a line and flush."""
    print(line, flush=True)


def draw(path: Path, result: dict[str, Any]) -> None:
    """Plot images per second of every row, and the curves."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    bars, *curves = figure.subplots(1, 3, width_ratios=[2, 1, 1])
    draw_rows(bars, result["rows"])
    for axes, key, title in zip(curves, ("factor_vae", "dci"), ("FactorVAE", "DCI"), strict=True):
        for variant, points in result["training"].get("curves", {}).items():
            draw_curve(axes, points, key, PROTOCOL, variant)
        axes.set(xlabel="training images", title=f"{title}, protocol {PROTOCOL}", ylim=(0, 1))
    figure.suptitle(f"{result['machine']['device']}, {result['machine']['date']}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_rows(axes: Axes, rows: dict[str, dict[str, Any]]) -> None:
    """Plot images per second, one group of bars per size and stage."""
    rates = {tuple(name.split("/")): row.get("images_per_second", 0.0) for name, row in rows.items()}
    groups = list(dict.fromkeys((size, stage) for size, stage, _ in rates))
    modes = list(dict.fromkeys(mode for *_, mode in rates))
    for number, mode in enumerate(modes):
        places = [place + 0.8 * number / len(modes) for place in range(len(groups))]
        axes.bar(places, [rates.get((*group, mode), 0) for group in groups], 0.8 / len(modes), label=mode)
    axes.set_xticks([place + 0.4 for place in range(len(groups))], [" ".join(group) for group in groups])
    axes.tick_params(axis="x", labelsize=7)
    axes.set(title="training, images per second")
    if any(rates.values()):
        axes.set_yscale("log")
        axes.legend(fontsize=7)


def main(arguments: argparse.Namespace) -> None:
    """Measure and train within the time, then draw."""
    if not arguments.minutes > 0:
        raise UserError(f"--minutes {arguments.minutes:g} leaves no time; give a positive number")
    device = resolve_device(arguments.device, "--device")
    os.environ["TQDM_DISABLE"] = "1"  # in the child process
    with Worker() as worker:
        session = Session(arguments, device, worker)
        try:
            session.describe()
        except (TimeoutError, ChildProcessError) as error:
            raise UserError(f"the measuring process did not start ({error}); give more --minutes") from error
        plain, compiled = ([mode for mode in session.modes if mode in kind] for kind in (PLAIN, COMPILED))
        session.measure_rows(list_rows(session.sizes, plain), PLAIN_SHARE)
        session.measure_rows(list_rows(session.sizes, compiled), COMPILED_SHARE)
        shutil.rmtree(session.runs / "timing", ignore_errors=True)
        session.train()
    session.save()
    draw(session.path.with_suffix(".png"), session.result)
    say(f"{session.path}, {session.path.with_suffix('.png')}")


if __name__ == "__main__":
    run_script(main, make_parser())
