"""Sample images: codes drawn from the data set's, random noise, all units or some of them."""

import argparse
from dataclasses import replace

import torch

from disdiff.cli import (
    build_parser,
    choose_path,
    describe_run,
    load_codes_of,
    parse_units,
    resolve_device,
    run_script,
    show_progress,
)
from disdiff.editing import check_units
from disdiff.report.grids import as_grid, save_grid
from disdiff.report.pictures import TITLES, draw_samples, load_codes
from disdiff.run import load_run
from ldm.errors import UserError

EXAMPLES = """examples:
  python scripts/sample.py pretrained/shapes3d                 32 images
  python scripts/sample.py pretrained/shapes3d --num 100 --seed 1 --steps 100
  python scripts/sample.py pretrained/shapes3d --units 0,3     only these units shift the noise prediction
writes edits/<run>-samples.png; --out PATH for another place"""


def make_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--num", type=int, default=32, help="how many images (32)")
    parser.add_argument("--units", type=parse_units, metavar="K,K", help="the subset S of units (all)")
    parser.add_argument("--steps", type=int, help="sampling steps (the run's own)")
    return parser


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    if arguments.num < 1:
        raise UserError(f"cannot sample {arguments.num} images; choose --num of 1 or more")
    run = load_run(arguments.run, resolve_device(arguments.device))
    model, sampler = run.model, run.config.sampler
    sampler = replace(sampler, num_steps=arguments.steps or sampler.num_steps)
    if arguments.units is not None:
        check_units(arguments.units, model.num_units)
    codes = load_codes(load_codes_of(run))
    generator = torch.Generator().manual_seed(arguments.seed)
    rows = torch.randint(len(codes), (arguments.num,), generator=generator)
    code = codes[rows].to(model.latent_space.mean.device)
    with show_progress("sampling") as progress:
        images = draw_samples(
            model, code, run.source.image_size, sampler, generator, arguments.units, progress
        )
    title = TITLES["samples"]
    if arguments.units is not None:
        title += f"; units {', '.join(map(str, arguments.units))} only"
    out = choose_path(arguments, "samples.png")
    save_grid(out, as_grid(images), title, describe_run(run))
    print(out)


if __name__ == "__main__":
    run_script(main, make_parser())
