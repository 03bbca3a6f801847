"""What the scripts share: common arguments, errors as one sentence, images named on the command line."""

import argparse
import hashlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from disdiff.editing.image_input import to_images
from disdiff.editing.unit_names import UnitNames, name_data, name_units
from disdiff.report.grids import save_grid
from disdiff.report.pictures import name_run_units
from disdiff.runs.run_folder import Run, load_run
from ldm.data.source import ImageSource, split_indices, to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.memory import keep_freed_memory
from ldm.numbers import COUNT, SEED, Range
from ldm.training.threads import list_counts, set_threads

CONFIG = "config.yaml in the run folder"
ADVICE = re.compile(r"\b(?:autoencoder|data|weights)\.[a-z_.]+=(?:[A-Z]|always|local-dir|none|skip|true)")


class Parser(argparse.ArgumentParser):
    """A parser that refuses bad arguments as bad input is refused everywhere."""

    def error(self, message: str) -> NoReturn:
        """End with one sentence and exit status 2."""
        self.exit(2, f"error: {message}\n")


def begin_parser(description: str | None, examples: str | None = None) -> argparse.ArgumentParser:
    """A parser without arguments that shows description and examples as they are written."""
    return Parser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def build_parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with what every script on a run folder takes: RUN, --out, --seed, --device."""
    parser = begin_parser(description, examples)
    parser.add_argument(
        "run", metavar="RUN", type=expand_home, help="run folder, such as pretrained/shapes3d"
    )
    parser.add_argument("--out", type=expand_home, metavar="PATH", help="where to write")
    parser.add_argument("--seed", type=number(SEED), default=0, help="of every random choice (0)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (auto)"
    )
    return parser


def add_sampler_options(parser: argparse.ArgumentParser, steps: str = "DDIM steps (the run's own)") -> None:
    """Add what every script that samples takes: --steps, --guidance."""
    parser.add_argument("--steps", type=number(COUNT), help=steps)
    parser.add_argument(
        "--guidance", type=float, metavar="W", help="times gradient fields, 1 as trained (the run's own)"
    )


def run_script(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line and run; bad input ends in one sentence and exit status 2, or in its traceback
    after `--debug`, which every script takes.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    log_to_terminal(sys.stderr)
    try:
        main(arguments)
    except UserError as error:
        if arguments.debug:
            raise
        where = "--set" if hasattr(arguments, "set") and not hasattr(arguments, "run") else CONFIG
        sys.stderr.write(f"error: {place_advice(str(error), where)}\n")
        sys.exit(2)


def log_to_terminal(stream: TextIO, level: int = logging.INFO) -> None:
    """Print what the library logs, from `level` on, as plain lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("ldm", "disdiff"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers, logger.propagate = [handler], False


def place_advice(message: str, where: str = CONFIG) -> str:
    """An error's message, with `where` the settings that it advises are read from outside main.py, for whose
    command line the remedies of errors are written.
    """
    told = any(place in message for place in ("--set ", "main.py", "main job", "config.yaml"))
    if told or not ADVICE.search(message):
        return message
    return f"{message} (here such settings are read from {where})"


def resolve_device(name: str) -> str:
    """`cpu` or `cuda` for a `--device`.

    Raises:
        UserError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no CUDA device; use the device cpu, or auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


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


def load_image(name: str | int, source: ImageSource) -> Tensor:
    """An image of the data set by its index, or a picture file, shape (1, 3, H, W) in [-1, 1].

    A file is prepared as the data set's pictures are: upright, by their crop, at their size.

    Raises:
        UserError: the index is out of range, or the file is missing or no picture.
    """
    if isinstance(name, int) or (name.isdecimal() and not Path(name).exists()):
        if not 0 <= int(name) < len(source):
            raise UserError(f"there is no image {name}: {source.name} has images 0 to {len(source) - 1}")
        return to_float(source.images(torch.tensor([int(name)])))
    return to_images(name, source.image_size, source.channels, getattr(source, "crop", "center"))


def draw_images(run: Run, num_images: int, seed: int) -> Tensor:
    """Random evaluation images of a run, shape (num_images, 3, H, W) in [-1, 1]."""
    data, evaluation = run.config.data, run.config.evaluation
    index = split_indices(run.source, data.num_train, evaluation.num_images)[1]
    generator = torch.Generator().manual_seed(seed)
    return to_float(run.source.images(index[torch.randint(len(index), (num_images,), generator=generator)]))


def choose_image(name: str | None, run: Run, seed: int) -> Tensor:
    """The image of an `--image` on the model's device, a random one without it, shape (1, 3, H, W)."""
    image = draw_images(run, 1, seed) if name is None else load_image(name, run.source)
    return image.to(run.model.latent_space.mean.device)


def load_codes_of(run: Run, *labels: str) -> dict[str, np.ndarray]:
    """`codes`, `factor_names` and the arrays `labels` of a run's `codes.npz`, as far as it has them.

    Raises:
        UserError: it is not there.
    """
    codes = run.codes(*labels)
    if codes is None:
        raise UserError(f"{run.folder} has no codes.npz; run the main job to its end first")
    return codes


def load_scores_of(run: Run) -> dict | None:
    """A run's scores: of the protocol `paper`, else of the first there is, else None."""
    scores = (run.metrics() or {}).get("scores") or {}
    return scores.get("paper") or next(iter(scores.values()), None)


def name_units_of(run: Run) -> UnitNames:
    """Names of a run's units; numbers when it has no codes or no scores."""
    codes = run.codes()
    if codes is None:
        return name_units(run.model.num_units, None, [])
    return name_run_units(codes, load_scores_of(run))


def describe_run(run: Run) -> str:
    """Data set and run, for the line under a picture's title."""
    return f"{name_data(run.source.name, run.source.procedural)} · {run.folder.resolve().name}"


def choose_path(arguments: argparse.Namespace, name: str) -> Path:
    """Where a script writes: `--out`, else `edits/<run>-<name>`, see `label_run`."""
    return arguments.out or Path("edits") / f"{label_run(arguments.run)}-{name}"


def label_run(run: Path) -> str:
    """What stands for a run folder in the names of files, of which no two folders have the same.

    The name for a folder in `runs`, the path for another one below the working directory, and the name with a
    checksum of the path for those elsewhere.
    """
    here, place = Path.cwd(), run.resolve()
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
    save_grid(out, grid, title, describe_run(run), rows, columns)
    print(out)


@contextmanager
def show_progress(description: str) -> Iterator[Callable[[float], None]]:
    """A progress bar; yields what is to be called with the share that is done."""
    with tqdm(total=100, desc=description, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        yield lambda share: bar.update(round(100 * share) - bar.n)
