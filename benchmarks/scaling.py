"""Train systems from a random start for days, and score them at growing numbers of images.

usage:
  python benchmarks/scaling.py                              all curves, one core; the same command resumes
  python benchmarks/scaling.py --status                     what is done, and how long the rest will take
  python benchmarks/scaling.py --only disdiff-dsprites      one curve, for instance one process per core
  python benchmarks/scaling.py --images 3000000 10000000    further points of the same runs
  python benchmarks/scaling.py --out runs/noise --set autoencoder.kind=noise autoencoder.standardise=channel

Curves: DisDiff, DisDiff without L_dis and EncDiff, on procedural Shapes3D and procedural dSprites, preset
`small`, with an encoder of random weights. All curves get their first point, then their second, and so on.

The learning rate stays constant after its warm-up, and the averaged weights are scored, so a point does not
depend on where the curve ends, and a curve can be continued. Training stops at a point with a checkpoint and
goes on from there: the points are those of one uninterrupted run, whatever stopped it. The shared stages are
those of `disdiff train` (the shipped ones on Shapes3D), trained once.

Every curve has a run folder under --out: `config.yaml`, checkpoint, and `curve.json` with its points
(`growth.py`). From all of them `scaling.json` and `scaling.png` are written after every point:

  machine      processor, versions, date, threads
  data         `procedural`, as all data sets are
  curves       by name: system, data, config (path of its `config.yaml`), points

Start further processes once the shared stages are trained, and never two on one curve.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growth import Point, add_point, draw_curve, load_points, tell_point
from matplotlib.figure import Figure
from timing import describe_machine

from disdiff.commands.terminal import begin_parser, run_script
from disdiff.config.schema import CONFIGS, load_config
from disdiff.metrics.protocols import PROTOCOLS
from disdiff.runs.context import open_context
from disdiff.runs.pipeline import open_run_folder
from disdiff.runs.training import train_first_stages
from ldm.errors import UserError
from ldm.files import atomic_path, save_json
from ldm.training.log import format_duration
from ldm.training.optimizer import resolve_budget

RANDOM_START = [
    "code.encoder.start=random",
    "code.encoder.freeze_steps=0",
    "code.encoder.learning_rate_factor=1",
    "code.loss.auxiliary.weight=0",
    "code.loss.weight_correlation=0",
    "code.loss.correlation_memory=0",
    "code.loss.contradict_by=latent",
]
SYSTEMS = {  # name: folder of its configuration, and overrides
    "disdiff": ("disdiff", RANDOM_START),
    "without-l-dis": ("disdiff", [*RANDOM_START, "code.loss.weight_disentangle=0"]),
    "encdiff": ("encdiff", RANDOM_START),
}
DATA = ("shapes3d", "dsprites")
IMAGES = (100_000, 300_000, 1_000_000, 3_000_000)
BUDGET = 20_000_000  # beyond all points; part of the hash of a stage, so it is the same for all of them
TELL_SECONDS = 600


@dataclass(frozen=True)
class Curve:
    """One curve: a system on a data set.

    Attributes:
        system: a key of `SYSTEMS`.
        data: name of the data set.
        folder: its run folder; its name is `<system>-<data>`.
    """

    system: str
    data: str
    folder: Path

    @property
    def points(self) -> list[Point]:
        """The points so far."""
        return load_points(self.folder)

    @property
    def images(self) -> int:
        """Images of the last point."""
        return self.points[-1]["images"] if self.points else 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    names = [f"{system}-{data}" for data in DATA for system in SYSTEMS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="curves (default: all)")
    parser.add_argument(
        "--images", nargs="+", type=int, default=IMAGES, help="points (default: 0.1, 0.3, 1 and 3 million)"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="paper", help="default: paper")
    parser.add_argument("--seed", type=int, default=0, help="seed of the codes (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of all curves")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="folder of everything")
    parser.add_argument("--status", action="store_true", help="say what is done, and train nothing")
    return parser


def list_curves(folder: Path, names: list[str]) -> list[Curve]:
    """The curves of these names in a folder."""
    return [Curve(*name.rsplit("-", 1), folder / name) for name in names]


def list_overrides(curve: Curve, arguments: argparse.Namespace) -> list[str]:
    """Overrides of a curve's configuration."""
    return [
        "data.procedural=always",
        f"code.train.images={BUDGET}",
        "code.train.decay=constant",
        *SYSTEMS[curve.system][1],
        *arguments.set,
        f"trainer.threads={arguments.threads}",
        f"seed={arguments.seed}",
        f"run.root={curve.folder.parent}",
        f"run.name={curve.folder.name}",
    ]


def run_point(curve: Curve, images: int, arguments: argparse.Namespace) -> None:
    """Train a curve to its next point and score it."""
    file = CONFIGS / SYSTEMS[curve.system][0] / f"{curve.data}.yaml"
    context = open_context(load_config([file], list_overrides(curve, arguments)))
    open_run_folder(context)
    train_first_stages(context)
    batch_size = resolve_budget(context.config.code.train, context.machine.device).batch_size
    progress = Progress(f"{curve.folder.name}, to {images} images", images / batch_size)
    point = add_point(context, images, arguments.protocol, progress)
    say(f"{curve.folder.name}: {tell_point(point, arguments.protocol)}")


class Progress:
    """Says every ten minutes when a point will be reached; a `Pause` that never ends training."""

    def __init__(self, title: str, steps: float) -> None:
        self.title, self.steps, self.start = title, steps, None

    def __call__(self, step: int) -> bool:
        """Called after step number `step`."""
        now = time.monotonic()
        if self.start is None:
            self.start, self.first, self.told = now, step, now
        elif now - self.told > TELL_SECONDS:
            seconds = (self.steps - step) * (now - self.start) / (step - self.first)
            say(f"{self.title}: {step / self.steps:.0%}, about {format_duration(seconds)} left")
            self.told = now
        return False


def estimate_seconds(curves: list[Curve], images: int) -> dict[str, float | None]:
    """Seconds of training until each curve has seen `images` images; None if its rate is not known.

    A curve without points is as fast as one of the same system on other data, if there is one.
    """
    known = {curve: curve.points[-1]["seconds"] / curve.images for curve in curves if curve.points}
    of_system = {curve.system: rate for curve, rate in known.items()}
    rates = {curve: known.get(curve, of_system.get(curve.system)) for curve in curves}
    return {
        curve.folder.name: None if rate is None else max(0, images - curve.images) * rate
        for curve, rate in rates.items()
    }


def tell_state(curves: list[Curve], images: int) -> None:
    """Print what is done and how long the rest will take."""
    seconds = estimate_seconds(curves, images)
    for curve in curves:
        left = seconds[curve.folder.name]
        rest = "time known after its first point" if left is None else f"about {format_duration(left)} left"
        say(f"{curve.folder.name}: {curve.images} of {images} images, {rest}")
    known = [left for left in seconds.values() if left is not None]
    more = f" for {len(known)} of {len(seconds)} curves" if len(known) < len(seconds) else ""
    say(f"all: about {format_duration(sum(known))} of training left{more}")


def write_results(folder: Path, protocol: str) -> None:
    """Write `scaling.json` and `scaling.png` from all curves in a folder."""
    names = [f"{system}-{data}" for data in DATA for system in SYSTEMS]
    curves = [curve for curve in list_curves(folder, names) if curve.points]
    content: dict[str, Any] = {"machine": describe_machine(), "data": "procedural"}
    content["curves"] = {
        curve.folder.name: {
            "system": curve.system,
            "data": curve.data,
            "config": str(curve.folder / "config.yaml"),
            "points": curve.points,
        }
        for curve in curves
    }
    save_json(folder / "scaling.json", content)
    figure = Figure(figsize=(4.5 * len(DATA), 7), layout="constrained")
    panels = figure.subplots(2, len(DATA), squeeze=False)
    for row, (key, title) in zip(panels, (("factor_vae", "FactorVAE"), ("dci", "DCI")), strict=True):
        for data, axes in zip(DATA, row, strict=True):
            for curve in curves:
                if curve.data == data:
                    draw_curve(axes, curve.points, key, protocol, curve.system)
            axes.set(title=f"procedural {data}", xlabel="training images", ylabel=title, ylim=(0, 1))
    figure.suptitle(f"protocol {protocol}, random start", fontsize=9)
    with atomic_path(folder / "scaling.png") as temporary:
        figure.savefig(temporary, dpi=150)


def say(line: str) -> None:
    """Print a line and flush."""
    print(line, flush=True)


def main(arguments: argparse.Namespace) -> None:
    """Train every curve to the first point, then to the second, and so on."""
    curves, counts = list_curves(arguments.out, arguments.only), sorted(set(arguments.images))
    if counts[0] < 1:
        raise UserError(f"--images {counts[0]} is no number of training images; give 1 or more")
    tell_state(curves, counts[-1])
    for images in [] if arguments.status else counts:
        for curve in curves:
            before = len(curve.points)
            run_point(curve, images, arguments)
            write_results(arguments.out, arguments.protocol)
            if len(curve.points) > before:
                tell_state(curves, counts[-1])


if __name__ == "__main__":
    run_script(main, make_parser())
