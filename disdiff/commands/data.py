"""Describe a data set's files; download, render, convert, encode or check them; show its images."""

import argparse
from pathlib import Path

from tqdm import tqdm

from disdiff.commands.common import count, number
from disdiff.commands.terminal import begin_parser
from disdiff.config.places import find
from disdiff.config.schema import merge, read_yaml
from disdiff.report.contact_sheet import save_contact_sheet
from disdiff.runs.context import open_context
from disdiff.runs.encoding import encode_latents
from ldm.data.arrays import Progress, show_on
from ldm.data.catalog import DATA_SETS, DataOptions, default_root, open_data
from ldm.data.pictures import Pictures
from ldm.data.prepare import check, convert, explain, fetch, render
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.numbers import SEED
from ldm.training.threads import set_threads

EXAMPLES = """examples:
  disdiff data shapes3d                                  list the files it needs and their folder
  disdiff data dsprites --download                       download; repeat the command to resume
  disdiff data shapes3d --procedural                     render 480,000 images (5.9 GB)
  disdiff data dsprites --procedural --num-images 20000  render a random subset
  disdiff data folder --root PHOTOS --convert            decode all pictures into one fast array
  disdiff data shapes3d --encode RUN                     cache the latents of a run's training images
  disdiff data show glyphs                               a picture of it, with one factor varied per row
  disdiff data check                                     check every data set in data/
  disdiff data check cars3d --root /data/cars3d"""


VERBS = ("check", "show")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "name", choices=[*DATA_SETS, *VERBS], metavar="NAME|check|show", help=", ".join(DATA_SETS)
    )
    parser.add_argument(
        "checked", nargs="?", choices=list(DATA_SETS), metavar="NAME", help="after `check` or `show`"
    )
    parser.add_argument("--root", type=expand_home, help="folder (data/NAME)")
    parser.add_argument("--out", type=expand_home, help="with `show`: file of the picture (NAME.png)")
    parser.add_argument("--download", action="store_true", help="download the published files")
    parser.add_argument("--procedural", action="store_true", help="render the procedural version to a file")
    parser.add_argument(
        "--num-images", type=int, help="with --procedural: render a random subset of this size"
    )
    parser.add_argument(
        "--seed", type=number(SEED), default=0, help="seed of the subset, or of `show` (default: 0)"
    )
    parser.add_argument("--convert", action="store_true", help="decode all pictures into one array on disk")
    parser.add_argument("--image-size", type=count, help="side of the pictures in pixels")
    parser.add_argument("--crop", help="how pictures are made square, as data.crop")
    parser.add_argument(
        "--corrupt", default="stop", help="at an unreadable picture: stop or skip (default: stop)"
    )
    parser.add_argument("--encode", metavar="RUN", type=find, help="encode the training images of this run")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Carry out the requested actions; without any, describe the data set."""
    name = arguments.name
    if name == "check":
        return check_all(arguments.checked, arguments.root)
    if name == "show":
        return show_images(arguments)
    if arguments.checked:
        raise UserError(f"{name} {arguments.checked}: give one data set, or `check` or `show` and a data set")
    root = arguments.root or default_root(name)
    if arguments.num_images is not None and not arguments.procedural:
        raise UserError(
            "--num-images only applies to --procedural; add --procedural or leave --num-images out"
        )
    if arguments.download:
        got = fetch(name, root, lambda file: show(file, "B"))
        print("\n".join(map(str, got)) or f"{root}: everything is there")
    if arguments.procedural:
        path = render(name, root, arguments.num_images, arguments.seed, show("rendering"))
        print(f"{path}: procedural images")
    if arguments.convert:
        options = DataOptions(
            name, str(root), "never", arguments.image_size, arguments.crop, arguments.corrupt
        )
        source = open_data(options, show("opening"))
        if not isinstance(source, Pictures):
            raise UserError(f"{name} needs no conversion; --convert is only for data sets of picture files")
        print(f"{convert(source, show('decoding'))}: {len(source)} pictures, {len(source.skipped)} left out")
    if arguments.encode:
        encode(arguments.encode, name, arguments.root)
    if not any((arguments.download, arguments.procedural, arguments.convert, arguments.encode)):
        print(explain(name, root))


def check_all(checked: str | None, root: Path | None) -> None:
    """Check one data set, or all data sets in `data/`; a given folder is checked as the first match."""
    names = [checked] if checked else list(DATA_SETS)
    roots = {name: root or default_root(name) for name in names}
    found = [name for name in names if DATA_SETS[name].find(roots[name]) is not None]
    if not found:
        where = root or Path("data")
        raise UserError(
            f"there is no data set in {where}; `disdiff data NAME` lists the files that are needed"
        )
    for name in found[:1] if root else found:  # `folder` comes last: it matches any folder with pictures
        print(check(DataOptions(name, str(roots[name]), "never"), show("reading")))


def show_images(arguments: argparse.Namespace) -> None:
    """Write the contact sheet of a data set."""
    name = arguments.checked
    if name is None:
        raise UserError("`disdiff data show` needs the name of a data set; `disdiff data --help` lists them")
    root, size = arguments.root or default_root(name), arguments.image_size
    options = DataOptions(name, str(root), "auto", size, arguments.crop, arguments.corrupt)
    path = arguments.out or Path(f"{name}.png")
    save_contact_sheet(path, open_data(options, show("opening")), arguments.seed)
    print(path)


def encode(folder: Path, name: str, root: Path | None) -> None:
    """Encode and cache the latents of a run's training images, as its later stages would."""
    config = merge([read_yaml(folder / "config.yaml")])
    if config.data.name != name:
        raise UserError(f"{folder} is a run on {config.data.name}, not on {name}; give {config.data.name}")
    if root is not None:
        config.data.root = str(root)
    context = open_context(config)
    stage = context.stages.get("autoencoder")
    if stage is None or not stage.trained:
        raise UserError(f"{folder} has no trained autoencoder to encode with; train it first")
    stage.load(context.latent_space)
    set_threads(context.thread_counts)
    print(f"{len(encode_latents(context))} latents are cached")


def show(title: str, unit: str = "image") -> Progress:
    """A progress bar, as a function of (done, total)."""
    return show_on(tqdm(desc=title, unit=unit, unit_scale=unit == "B", delay=1, leave=False))
