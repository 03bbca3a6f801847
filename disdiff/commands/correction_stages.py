"""Find which stage of sampling needs the code: sample with it in the early, critical or late stage only."""

import argparse

import torch
from torch import Tensor

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
from disdiff.evaluation.edit_success import agreement
from disdiff.method.model import DisDiff
from disdiff.runs.run_folder import Run
from ldm.autoencoder.losses import reconstruction_scores
from ldm.errors import UserError
from ldm.files import save_json

NAME = "correction_stages.png"
NUM_SHOWN = 8
EXAMPLES = """examples:
  disdiff correction-stages runs/pdae-shapes3d-small-s0              8 random images
  disdiff correction-stages pretrained/shapes3d --images 12 70000 --steps 100
All rows start from the same noise. The stages are early (SNR below 0.01), critical (0.01 to 1) and late
(above 1); these bounds are ours. With --probe, the classifier that also judges swaps reads the factors of
random images from the samples. Writes edits/<run>-correction_stages.png and a .json beside it; --out PATH
changes the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--num", type=count, default=8, help="number of random images (default: 8)")
    parser.add_argument(
        "--images", nargs="+", metavar="I|FILE", help="use these images: data set indices or picture files"
    )
    parser.add_argument("--probe", action="store_true", help="read the images' factors from the samples")
    add_sampler_options(parser)
    return parser


def read_factors(run: Run, index: Tensor, samples: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """How often the probe reads the factors of the images `index` (n,) from samples of their codes.

    Args:
        run: the run, on labelled data.
        index: indices of the images, shape (n,).
        samples: samples by stage, shape (n, 3, H, W).

    Returns:
        By stage, the rate of each factor and their `mean`; by `chance`, the rates of always reading each
        factor's most frequent value.

    Raises:
        UserError: the images have no factor labels.
    """
    with show_progress("probe") as progress:
        probe = run.find_probe(progress)
    names, factors = run.source.factor_space.names, run.source.factors(index)
    read = {stage: probe.predict(images).cpu() for stage, images in samples.items()}
    read["chance"] = factors.mode(dim=0).values.expand_as(factors)
    rates = {stage: agreement(found, factors) for stage, found in read.items()}
    return {
        stage: {**dict(zip(names, rate.tolist(), strict=True)), "mean": rate.mean().item()}
        for stage, rate in rates.items()
    }


@torch.no_grad()  # the probe may be trained, which inference mode forbids
def main(arguments: argparse.Namespace) -> None:
    """Sample with the code in one stage of sampling only, and measure the reconstruction."""
    out = choose_path(arguments, NAME)
    numbers = data_path(out, ".json")
    run, sampler = open_run(arguments)
    model, sampler = run.model, deterministic(sampler)
    if not isinstance(model, DisDiff):
        raise UserError(f"{run.config.system} has no frozen model to correct; give a run of disdiff or pdae")
    if arguments.images and arguments.probe:
        raise UserError("--probe needs random images of the data set; leave out --images")
    if arguments.images:
        image = torch.cat([load_image(name, run.source) for name in arguments.images])
    else:
        image = run.draw_images(arguments.num, arguments.seed)
    image, generator = image.to(model.device), torch.Generator().manual_seed(arguments.seed)
    code, z_T = model.encode(image), sample_start(model, len(image), image.shape[-1], generator)
    last = model.schedule.num_steps
    windows = {"never": (0, 0), **split_stages(model.schedule), "always": (0, last)}
    samples, labels, measured = {}, ["image"], {}
    with show_progress("sampling") as progress:
        for k, (name, window) in enumerate(windows.items()):
            samples[name] = draw_windowed(model, model.denoiser, code, z_T, window, sampler, generator)
            scores = reconstruction_scores(samples[name], image)
            measured[name] = {"first": window[0], "last": window[1] - 1, **scores}
            steps = f" · t {window[1] - 1} to {window[0]}" if 0 < window[1] - window[0] < last else ""
            labels.append(f"{name}{steps} · {scores['psnr']:.1f} dB")
            progress((k + 1) / len(windows))
    title = "The code corrects the frozen model in one stage of sampling only"
    details = {"num_images": len(image), "seed": arguments.seed, "num_steps": sampler.num_steps}
    if arguments.probe:
        details["factors_read"] = read_factors(run, run.draw_indices(arguments.num, arguments.seed), samples)
    save_json(numbers, {**details, "corrected": measured})
    rows = torch.stack([image, *samples.values()])[:, : max(NUM_SHOWN, len(arguments.images or ()))]
    save_picture(out, run, rows, title, labels)
