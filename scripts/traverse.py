"""Move one unit after the other of an image along its principal direction, all else fixed."""

import argparse
from dataclasses import replace

import torch

from disdiff.cli import (
    build_parser,
    choose_path,
    describe_run,
    draw_images,
    load_codes_of,
    load_image,
    name_units_of,
    parse_units,
    resolve_device,
    run_script,
    show_progress,
)
from disdiff.editing import check_units, deterministic, invert, principal_directions
from disdiff.report.grids import save_grid
from disdiff.report.pictures import AMOUNTS, TITLES, draw_traversal, label_amounts, load_codes
from disdiff.run import load_run
from ldm.errors import UserError

EXAMPLES = """examples:
  python scripts/traverse.py pretrained/shapes3d                     a random image, every unit
  python scripts/traverse.py pretrained/shapes3d --units 0,3         these units
  python scripts/traverse.py pretrained/shapes3d --image 70000       an image of the data set
  python scripts/traverse.py pretrained/shapes3d --image photo.png --reach 3 --columns 13
writes edits/<run>-traversal.png; --out PATH for another place"""


def make_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--units", type=parse_units, metavar="K,K", help="units to move (all)")
    parser.add_argument("--image", metavar="I|FILE", help="index in the data set, or a picture file (random)")
    parser.add_argument(
        "--reach", type=float, default=max(AMOUNTS), help="how far, in standard deviations (2)"
    )
    parser.add_argument("--columns", type=int, default=len(AMOUNTS), help="places on the way (9)")
    parser.add_argument("--steps", type=int, help="DDIM steps (the run's own)")
    return parser


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    if arguments.columns < 2 or arguments.reach <= 0:
        raise UserError("a traversal needs --columns of 2 or more and a --reach above 0")
    run = load_run(arguments.run, resolve_device(arguments.device))
    model, sampler = run.model, deterministic(run.config.sampler)
    sampler = replace(sampler, num_steps=arguments.steps or sampler.num_steps)
    names = name_units_of(run)
    units = check_units(arguments.units or names.order, model.num_units)
    directions = principal_directions(load_codes(load_codes_of(run)))
    if arguments.image is None:
        image = draw_images(run, 1, arguments.seed)
    else:
        image = load_image(arguments.image, run.source)
    image = image.to(model.latent_space.mean.device)
    amounts = tuple(torch.linspace(-arguments.reach, arguments.reach, arguments.columns).tolist())
    z_T = invert(model, image, model.encode(image), sampler.num_steps)
    with show_progress("traversing") as progress:
        grid = draw_traversal(model, image, units, directions, amounts, sampler, z_T, progress)
    out = choose_path(arguments, "traversal.png")
    labels = [names.labels[unit] for unit in units]
    save_grid(out, grid, TITLES["traversal"], describe_run(run), labels, label_amounts(amounts))
    print(out)


if __name__ == "__main__":
    run_script(main, make_parser())
