"""Find which stage of sampling needs the code: sample with it in the early, critical or late stage only."""

import argparse

import torch

from disdiff.commands.common import (
    add_sampler_options,
    build_parser,
    choose_path,
    count,
    data_path,
    load_image,
    open_run,
    save_picture,
    show_progress,
)
from disdiff.editing.unconditional import draw_windowed, split_stages
from disdiff.editing.units import deterministic, sample_start
from disdiff.method.model import DisDiff
from ldm.autoencoder.losses import reconstruction_scores
from ldm.errors import UserError
from ldm.files import save_json

NAME = "correction_stages.png"
EXAMPLES = """examples:
  disdiff correction-stages runs/pdae-shapes3d-small-s0              8 random images
  disdiff correction-stages pretrained/shapes3d --images 12 70000 --steps 100
All rows start from the same noise. The stages are early (SNR below 0.01), critical (0.01 to 1) and late
(above 1); these bounds are ours. Writes edits/<run>-correction_stages.png and a .json beside it; --out PATH
changes the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--num", type=count, default=8, help="number of random images (default: 8)")
    parser.add_argument(
        "--images", nargs="+", metavar="I|FILE", help="use these images: data set indices or picture files"
    )
    add_sampler_options(parser)
    return parser


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Sample with the code in one stage of sampling only, and measure the reconstruction."""
    out = choose_path(arguments, NAME)
    numbers = data_path(out, ".json")
    run, sampler = open_run(arguments)
    model, sampler = run.model, deterministic(sampler)
    if not isinstance(model, DisDiff):
        raise UserError(f"{run.config.system} has no frozen model to correct; give a run of disdiff or pdae")
    if arguments.images:
        image = torch.cat([load_image(name, run.source) for name in arguments.images])
    else:
        image = run.draw_images(arguments.num, arguments.seed)
    image, generator = image.to(model.device), torch.Generator().manual_seed(arguments.seed)
    code, z_T = model.encode(image), sample_start(model, len(image), image.shape[-1], generator)
    last = model.schedule.num_steps
    windows = {"never": (0, 0), **split_stages(model.schedule), "always": (0, last)}
    rows, labels, measured = [image], ["image"], {}
    with show_progress("sampling") as progress:
        for k, (name, window) in enumerate(windows.items()):
            rows.append(draw_windowed(model, model.denoiser, code, z_T, window, sampler, generator))
            scores = reconstruction_scores(rows[-1], image)
            measured[name] = {"first": window[0], "last": window[1] - 1, **scores}
            steps = f" · t {window[1] - 1} to {window[0]}" if 0 < window[1] - window[0] < last else ""
            labels.append(f"{name}{steps} · {scores['psnr']:.1f} dB")
            progress((k + 1) / len(windows))
    title = "The code corrects the frozen model in one stage of sampling only"
    details = {"num_images": len(image), "seed": arguments.seed, "num_steps": sampler.num_steps}
    save_json(numbers, {**details, "corrected": measured})
    save_picture(out, run, torch.stack(rows), title, labels)
