"""Move the units of an image along their principal directions, one at a time, with all else fixed."""

import argparse

import torch

from disdiff.commands.common import (
    add_sampler_options,
    add_units,
    build_parser,
    choose_image,
    choose_path,
    find_units,
    number,
    open_run,
    save_picture,
    several,
    show_progress,
)
from disdiff.editing.units import deterministic, principal_directions
from disdiff.evaluation.codes_file import stack_codes
from disdiff.report.pictures import AMOUNTS, TITLES, draw_traversal, label_amounts
from ldm.numbers import POSITIVE

EXAMPLES = """examples:
  disdiff traverse pretrained/shapes3d                     a random image, every unit
  disdiff traverse pretrained/shapes3d --units 0,3         these units
  disdiff traverse pretrained/shapes3d --units "wall hue"  the units of this factor, one row each
  disdiff traverse pretrained/shapes3d --image 70000       an image of the data set
  disdiff traverse pretrained/shapes3d --image photo.png --reach 3 --columns 13
Writes edits/<run>-traversal.png (the next one is <run>-traversal-2.png); --out PATH changes the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    add_units(parser, "move")
    parser.add_argument(
        "--image", metavar="I|FILE", help="data set index or picture file (default: a random image)"
    )
    parser.add_argument(
        "--reach",
        type=number(POSITIVE),
        default=max(AMOUNTS),
        help="largest distance, in standard deviations (default: 2)",
    )
    parser.add_argument("--columns", type=several, default=len(AMOUNTS), help="images per row (default: 9)")
    add_sampler_options(parser)
    return parser


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Draw a traversal of each unit."""
    out = choose_path(arguments, "traversal.png")
    run, sampler = open_run(arguments)
    model, sampler = run.model, deterministic(sampler)
    names = run.unit_names()
    units = names.used if arguments.units is None else sum(find_units(arguments.units, run), [])
    directions = principal_directions(stack_codes(run.require_codes()))
    image = choose_image(arguments.image, run, arguments.seed)
    amounts = tuple(torch.linspace(-arguments.reach, arguments.reach, arguments.columns).tolist())
    z_T = model.infer_noise(image, model.encode(image), sampler.num_steps)
    with show_progress("traversing") as progress:
        grid = draw_traversal(model, image, units, directions, amounts, sampler, z_T, progress)
    labels = [names.labels[unit] for unit in units]
    title, columns = TITLES["traversal"], label_amounts(amounts)
    save_picture(out, run, grid, title, labels, columns)
