"""Sample images from new codes of every kind that a run has, and measure their distance to the data.

The distance is the Frechet distance in the first 16 principal components of the data's pixels
(`disdiff.evaluation.frozen_model`); it needs no network and is not FID. `halves of the data` is its value for
perfect samples.
"""

import argparse

import torch

from disdiff.commands.common import (
    build_parser,
    choose_path,
    count,
    data_path,
    load_named_run,
    save_picture,
    show_progress,
)
from disdiff.evaluation.frozen_model import NUM_COMPONENTS, compute_principal_distance
from disdiff.runs.new_codes import draw_new, list_sources
from ldm.data.source import to_float
from ldm.errors import UserError
from ldm.files import save_json

NAME = "new_codes.png"
NUM_SHOWN = 12
LABELS = {
    "data": "codes of the data",
    "normal": "normal codes",
    "latent_dpm": "codes of the latent DPM",
    "two_phase": "normal codes, two-phase",
}
EXAMPLES = """examples:
  disdiff new-codes runs/infodiffusion-shapes3d-small-s0
  disdiff new-codes runs/beta_vae-shapes3d-small-s0 --num 1000
All rows start from the same noise. Writes edits/<run>-new_codes.png and a .json beside it; --out PATH changes
the path."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--num", type=count, default=512, help="images of each kind (default: 512)")
    return parser


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Sample every kind, measure the distances, and write them with a picture."""
    out = choose_path(arguments, NAME)
    numbers = data_path(out, ".json")
    run, num = load_named_run(arguments), arguments.num
    most = len(run.eval_index) // 2
    if most <= NUM_COMPONENTS:
        raise UserError(
            f"the run has {len(run.eval_index)} evaluation images, too few for this distance; it needs "
            f"{2 * NUM_COMPONENTS + 2}: raise evaluation.num_images, or add images"
        )
    if not NUM_COMPONENTS < num <= most:
        raise UserError(
            f"--num {num} does not fit; give more than {NUM_COMPONENTS} and at most "
            f"{most}, half of the run's evaluation images"
        )
    image, reference = to_float(run.source.images(run.eval_index[: 2 * num])).chunk(2)
    samples = {}
    for way in list_sources(run):
        with show_progress(LABELS[way]) as progress:
            samples[way] = draw_new(run, way, num, arguments.seed, progress).cpu()
    distances = {way: compute_principal_distance(made, reference) for way, made in samples.items()}
    distances["halves of the data"] = compute_principal_distance(image, reference)
    save_json(numbers, {"distance": distances, "num_images": num, "seed": arguments.seed})
    for way, distance in distances.items():
        print(f"{LABELS.get(way, way)}: {distance:.4g}")
    rows = torch.stack([made[:NUM_SHOWN] for made in samples.values()])
    labels = [f"{LABELS[way]} · {distances[way]:.3f}" for way in samples]
    title = "Samples, with their Frechet distance to the data in 16 principal components"
    save_picture(out, run, rows, title, labels)
