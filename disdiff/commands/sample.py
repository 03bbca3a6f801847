"""Sample images from random noise and codes.

Codes come from images of the data set, the prior or a latent DPM. The code can be restricted to some units or
to some sampling steps.
"""

import argparse

import torch

from disdiff.commands.common import (
    add_sampler_options,
    add_units,
    build_parser,
    choose_path,
    count,
    find_units,
    open_run,
    save_picture,
    show_progress,
)
from disdiff.editing.unconditional import check_window, draw_windowed
from disdiff.editing.units import draw_samples, sample_start
from disdiff.report.grids import as_grid
from disdiff.runs.new_codes import ORIGINS, draw_codes, find_unconditional
from ldm.errors import UserError

EXAMPLES = """examples:
  disdiff sample pretrained/shapes3d                 32 images
  disdiff sample pretrained/shapes3d --num 100 --seed 1 --steps 100
  disdiff sample pretrained/shapes3d --units 0,3     use only these units
  disdiff sample RUN --codes latent_dpm              codes from the run's latent DPM
  disdiff sample RUN --codes latent_dpm --during 300 1000   as in the PDAE paper: no code at low noise
  disdiff sample RUN --codes prior                   codes from the prior (InfoDiffusion, VAEs)
  disdiff sample RUN --codes prior --during 0 500    as in InfoDiffusion: unconditional down to
                                               t = 500, then with the code
Writes edits/<run>-samples.png (the next ones are <run>-samples-2.png); --out PATH changes the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--num", type=count, default=32, help="number of images (default: 32)")
    parser.add_argument(
        "--codes", choices=tuple(ORIGINS), default="data", help="source of the codes (default: data)"
    )
    add_units(parser, "use")
    parser.add_argument(
        "--during",
        type=int,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="use the code at FIRST <= t < LAST and an unconditional model elsewhere (default: all steps)",
    )
    add_sampler_options(parser, "number of sampling steps (default: that of the run)")
    return parser


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Sample images and write them as a grid."""
    if arguments.during and arguments.units is not None:
        raise UserError("--during and --units cannot be combined; leave one of them out")
    out = choose_path(arguments, "samples.png")
    run, sampler = open_run(arguments)
    model = run.model
    units = None if arguments.units is None else sum(find_units(arguments.units, run), [])
    generator = torch.Generator().manual_seed(arguments.seed)
    code = draw_codes(run, arguments.codes, arguments.num, generator)
    title = f"Samples: {ORIGINS[arguments.codes]}, random noise"
    size = run.source.image_size
    if arguments.during:
        elsewhere = find_unconditional(run)
        first, last = check_window(arguments.during, model.schedule)
        title += f"; the code from t = {last - 1} to {first} only"
    with show_progress("sampling") as progress:
        if arguments.during:
            z_T = sample_start(model, len(code), size, generator)
            images = draw_windowed(model, elsewhere, code, z_T, (first, last), sampler, generator, progress)
        else:
            images = draw_samples(model, code, size, sampler, generator, units, progress)
    if units is not None:
        title += f"; units {', '.join(map(str, units))} only"
    save_picture(out, run, as_grid(images), title)
