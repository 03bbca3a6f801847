"""Shared code of the commands on a run folder: options, opening the run, choosing images, output paths."""

import argparse
import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from disdiff.commands.terminal import begin_parser
from disdiff.config.places import PRETRAINED, ROOT, find
from disdiff.editing.image_input import load_image
from disdiff.editing.units import check_units
from disdiff.report.grids import check_suffix, save_grid
from disdiff.runs.run_folder import Run, load_run
from ldm.device import DEVICES, resolve_device
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.memory import keep_freed_memory
from ldm.numbers import COUNT, SEED, SEVERAL, Range
from ldm.training.threads import list_counts, set_threads


def build_parser(
    description: str | None, examples: str, out: str = "file of the picture, or a folder for it"
) -> argparse.ArgumentParser:
    """A parser with the options of every command on a run folder: RUN, --out, --seed, --device."""
    parser = begin_parser(description, examples)
    parser.add_argument("run", metavar="RUN", type=find, help="run folder, such as pretrained/shapes3d")
    parser.add_argument("--out", type=expand_home, metavar="PATH", help=out)
    parser.add_argument(
        "--seed", type=number(SEED), default=0, help="seed of all random choices (default: 0)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="compute device (default: auto)")
    return parser


def add_sampler_options(
    parser: argparse.ArgumentParser, steps: str = "number of DDIM steps (default: that of the run)"
) -> None:
    """Add the options of every command that samples: --steps, --guidance."""
    parser.add_argument("--steps", type=count, help=steps)
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="W",
        help="scale of the gradient fields; 1 is the trained scale (default: that of the run)",
    )


def load_named_run(arguments: argparse.Namespace) -> Run:
    """Load the run named on the command line, with `--device` and `--guidance` applied.

    On a CPU this also configures the process: freed memory is kept for reuse, and the number of threads is
    the run's `trainer.threads`, or the number that a short trial finds fastest.
    """
    device = resolve_device(arguments.device)
    if device == "cpu":
        keep_freed_memory()
    run = load_run(arguments.run, device, getattr(arguments, "guidance", None))
    counts = list_counts(run.config.trainer.threads, device)
    set_threads(counts)
    return run


def open_run(arguments: argparse.Namespace) -> tuple[Run, SamplerConfig]:
    """Load the run named on the command line (see `load_named_run`), and its sampler with `--steps`."""
    run = load_named_run(arguments)
    sampler = run.config.sampler
    return run, sampler if arguments.steps is None else replace(sampler, num_steps=arguments.steps)


def number(limits: Range) -> Callable[[str], int | float]:
    """An option type for `argparse` that accepts the numbers within `limits`."""

    def read(text: str) -> int | float:
        """Read one number."""
        try:
            return limits.read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


count, several = number(COUNT), number(SEVERAL)


def add_units(parser: argparse.ArgumentParser, use: str) -> None:
    """Add `--units`, whose value `find_units` reads."""
    parser.add_argument(
        "--units",
        metavar="K,K",
        help=f"units to {use}: numbers, or a factor's name (default: all)",
    )


def find_units(text: str, run: Run) -> list[list[int]]:
    """The units of each part of a value of `--units`: one of a number, all of a factor's name.

    Raises:
        UserError: there is no such unit, or a unit occurs twice.
    """
    table = run.unit_table()
    groups = [table.find(part) for part in text.split(",")]
    check_units([unit for group in groups for unit in group], table.num_units)
    return groups


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """Parse the value of an option that has seeds, such as `0,1,2`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and SEED.holds(int(part)) for part in parts):
        raise UserError(
            f"{option} {text} is not a list of seeds from 0 to {SEED.most}; write for example 0,1,2"
        )
    return [int(part) for part in parts]


def choose_image(name: str | None, run: Run, seed: int) -> Tensor:
    """The image named by `--image`, or a random one, on the model's device, shape (1, 3, H, W)."""
    image = run.draw_images(1, seed) if name is None else load_image(name, run.source)
    return image.to(run.model.device)


def choose_path(arguments: argparse.Namespace, name: str) -> Path:
    """Path of the picture that a command writes: `--out`, else a new file `edits/<run>-<name>`.

    In a folder given by `--out`, the file is a new one, too. See `label_run` and `number_path`.

    Raises:
        UserError: the suffix is not a picture format.
    """
    if arguments.out is None:
        return number_path(Path("edits") / f"{label_run(arguments.run)}-{name}")
    if arguments.out.is_dir():
        return number_path(arguments.out / f"{arguments.run.resolve().name}-{name}")
    check_suffix(arguments.out)
    return arguments.out


def number_path(path: Path) -> Path:
    """`path` if no such file exists, else the first of `<name>-2`, `<name>-3`, ... that does not exist."""
    others = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], others) if not each.exists())


def label_run(run: Path) -> str:
    """A label of a run folder for file names, different for every folder.

    The label of a folder in `runs` is its name, that of another folder in the working directory its relative
    path, and that of a shipped model its path in the package. Any other folder gets its name with a checksum
    of its path.
    """
    here, place = Path.cwd(), run.resolve()
    if place.is_relative_to(PRETRAINED) and find(name := place.relative_to(ROOT)).resolve() == place:
        return name.as_posix()
    if place.parent == here / "runs":
        return place.name
    if here in place.parent.parents:
        return place.relative_to(here).as_posix()
    return f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def data_path(picture: Path, suffix: str) -> Path:
    """Path of the data file that belongs to a picture: the same name with another suffix.

    Raises:
        UserError: the picture itself has that suffix.
    """
    if picture.suffix == suffix:
        raise UserError(
            f"{picture} is also the name of the picture's data file; choose an --out that ends in .png"
        )
    return picture.with_suffix(suffix)


def save_picture(
    out: Path,
    run: Run,
    grid: Tensor,
    title: str,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
) -> None:
    """Write a grid of images (see `save_grid`) and print its path."""
    save_grid(out, grid, title, run.title, rows, columns)
    print(out)


@contextmanager
def show_progress(description: str) -> Iterator[Callable[[float], None]]:
    """Show a progress bar; yields a function that takes the completed fraction, from 0 to 1."""
    with tqdm(total=100, desc=description, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        yield lambda share: bar.update(round(100 * share) - bar.n)
