"""Swap units between images: shows source, target, and the source with one unit of the target per row."""

import argparse

import torch

from disdiff.commands.common import (
    add_sampler_options,
    add_units,
    build_parser,
    choose_path,
    find_units,
    load_image,
    number,
    open_run,
    save_picture,
    show_progress,
)
from disdiff.editing.unit_names import name_numbers
from disdiff.editing.units import deterministic, renew_noise
from disdiff.report.pictures import TITLES, draw_swap
from disdiff.runs.run_folder import Run
from ldm.errors import UserError
from ldm.numbers import FRACTION

EXAMPLES = """examples:
  disdiff swap pretrained/shapes3d                              eight random pairs, every unit
  disdiff swap pretrained/shapes3d --units 0,3                  these units, and both together
  disdiff swap pretrained/shapes3d --units "wall hue"           all units of this factor
  disdiff swap pretrained/shapes3d --source 12 --target 70000   two images of the data set
  disdiff swap pretrained/shapes3d --images a.png b.png         two pictures of your own
  disdiff swap pretrained/shapes3d --noise random --steps 100   random noise instead of the source's
  disdiff swap pretrained/shapes3d --noise 0.3                  30 % of the source's noise is replaced
Writes edits/<run>-swap.png (the next swap is <run>-swap-2.png); --out PATH changes the path."""

NUM_PAIRS = 8


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    add_units(parser, "swap")
    parser.add_argument("--source", type=int, metavar="I", help="index of the source image in the data set")
    parser.add_argument("--target", type=int, metavar="J", help="index of the target image in the data set")
    parser.add_argument("--images", nargs=2, metavar=("SOURCE", "TARGET"), help="two picture files")
    parser.add_argument(
        "--noise",
        type=read_noise,
        default=0.0,
        metavar="inferred|random|SHARE",
        help="x_T: inferred from the source (default), random, or inferred with this share replaced",
    )
    add_sampler_options(parser)
    return parser


def read_noise(text: str) -> float:
    """The share of new noise that a value of --noise stands for."""
    named = {"inferred": 0.0, "random": 1.0}
    return named[text] if text in named else number(FRACTION)(text)


def choose_pairs(arguments: argparse.Namespace, run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target images, shape (B, 3, H, W) each."""
    if (arguments.source is None) != (arguments.target is None):
        raise UserError("--source and --target go together; give both")
    if arguments.images and arguments.source is not None:
        raise UserError("give --images or --source and --target, not both")
    names = arguments.images or [arguments.source, arguments.target]
    if names[0] is None:
        return run.draw_images(2 * NUM_PAIRS, arguments.seed).chunk(2)
    source, target = (load_image(name, run.source) for name in names)
    return source, target


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Draw the swaps of pairs of images."""
    out = choose_path(arguments, "swap.png")
    run, sampler = open_run(arguments)
    model, sampler = run.model, deterministic(sampler)
    names = run.unit_names()
    swaps = [[unit] for unit in names.used]
    if arguments.units is not None:
        swaps = find_units(arguments.units, run)
        swaps += [sum(swaps, [])] if len(swaps) > 1 else []
    device = model.device
    source, target = (image.to(device) for image in choose_pairs(arguments, run))
    z_T = model.infer_noise(source, model.encode(source), sampler.num_steps)
    z_T = renew_noise(z_T, arguments.noise, torch.Generator().manual_seed(arguments.seed))
    with show_progress("swapping") as progress:
        grid = draw_swap(model, source, target, swaps, sampler, z_T, progress)
    labels = [names.labels[units[0]] if len(units) == 1 else name_numbers(units) for units in swaps]
    save_picture(out, run, grid, TITLES["swap"], ["source", "target", *labels])
