"""What the commands on a run folder share: options, how a run is opened, images named on the command line."""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from disdiff.commands.terminal import begin_parser
from disdiff.config.places import PRETRAINED, ROOT, find
from disdiff.editing.image_input import load_image
from disdiff.report.grids import save_grid
from disdiff.runs.run_folder import Run, load_run
from ldm.device import DEVICES, resolve_device
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.memory import keep_freed_memory
from ldm.numbers import COUNT, SEED, Range
from ldm.training.threads import list_counts, set_threads


def build_parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with what every script on a run folder takes: RUN, --out, --seed, --device."""
    parser = begin_parser(description, examples)
    parser.add_argument("run", metavar="RUN", type=find, help="run folder, such as pretrained/shapes3d")
    parser.add_argument("--out", type=expand_home, metavar="PATH", help="where to write")
    parser.add_argument("--seed", type=number(SEED), default=0, help="of every random choice (0)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (auto)")
    return parser


def add_sampler_options(parser: argparse.ArgumentParser, steps: str = "DDIM steps (the run's own)") -> None:
    """Add what every script that samples takes: --steps, --guidance."""
    parser.add_argument("--steps", type=number(COUNT), help=steps)
    parser.add_argument(
        "--guidance", type=float, metavar="W", help="times gradient fields, 1 as trained (the run's own)"
    )


def load_run_of(arguments: argparse.Namespace) -> Run:
    """The run a script is called on, on its `--device` under its `--guidance`.

    The process is set up to compute with it: on a CPU it keeps freed memory, and computes with the run's
    `trainer.threads`, else with as many threads as a short trial finds best.
    """
    device = resolve_device(arguments.device)
    if device == "cpu":
        keep_freed_memory()
    run = load_run(arguments.run, device, getattr(arguments, "guidance", None))
    counts = list_counts(run.config.trainer.threads, device)
    set_threads(counts)
    return run


def open_run(arguments: argparse.Namespace) -> tuple[Run, SamplerConfig]:
    """The run a script is called on (see `load_run_of`), and its sampler in `--steps` steps."""
    run = load_run_of(arguments)
    sampler = run.config.sampler
    return run, sampler if arguments.steps is None else replace(sampler, num_steps=arguments.steps)


def number(limits: Range) -> Callable[[str], int | float]:
    """A reader of options, for `argparse`, that accepts the numbers within `limits`."""

    def read(text: str) -> int | float:
        """Read one number."""
        try:
            return limits.read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def parse_units(text: str) -> list[int]:
    """Units of a `--units`, such as `0,3`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of units; write for example 0,3") from None


def parse_seeds(text: str) -> list[int]:
    """Seeds of a `--seeds`, such as `0,1,2`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and SEED.holds(int(part)) for part in parts):
        raise UserError(f"--seeds {text} is no list of seeds from 0 to {SEED.most}; write for example 0,1,2")
    return [int(part) for part in parts]


def choose_image(name: str | None, run: Run, seed: int) -> Tensor:
    """The image of an `--image` on the model's device, a random one without it, shape (1, 3, H, W)."""
    image = run.draw_images(1, seed) if name is None else load_image(name, run.source)
    return image.to(run.model.device)


def choose_path(arguments: argparse.Namespace, name: str) -> Path:
    """Where a script writes: `--out`, else `edits/<run>-<name>`, see `label_run`."""
    return arguments.out or Path("edits") / f"{label_run(arguments.run)}-{name}"


def label_run(run: Path) -> str:
    """What stands for a run folder in the names of files, of which no two folders have the same.

    The name for a folder in `runs`, the path for another one below the working directory, what `find` finds a
    shipped one by, and the name with a checksum of the path for those elsewhere.
    """
    here, place = Path.cwd(), run.resolve()
    if place.is_relative_to(PRETRAINED) and find(name := place.relative_to(ROOT)).resolve() == place:
        return name.as_posix()
    if place.parent == here / "runs":
        return place.name
    if here in place.parent.parents:
        return place.relative_to(here).as_posix()
    return f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def put_beside(picture: Path, suffix: str) -> Path:
    """Where the numbers of a picture go: beside it, under another ending.

    Raises:
        UserError: the picture itself has that ending.
    """
    if picture.suffix == suffix:
        raise UserError(f"{picture} is where the numbers beside the picture go; let --out end in .png")
    return picture.with_suffix(suffix)


def save_picture(
    arguments: argparse.Namespace,
    run: Run,
    name: str,
    grid: Tensor,
    title: str,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
) -> None:
    """Write a picture where the script is to (see `choose_path`) and say where; see `save_grid`."""
    out = choose_path(arguments, name)
    save_grid(out, grid, title, run.title, rows, columns)
    print(out)


@contextmanager
def show_progress(description: str) -> Iterator[Callable[[float], None]]:
    """A progress bar; yields what is to be called with the share that is done."""
    with tqdm(total=100, desc=description, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        yield lambda share: bar.update(round(100 * share) - bar.n)
