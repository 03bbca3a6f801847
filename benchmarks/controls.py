"""Score controls for a run, on the same images and with the same protocol.

The controls are a PCA of the latents, an untrained encoder, and the run's encoder before training with its
own start and every simpler one.

usage:
  python benchmarks/controls.py runs/disdiff-shapes3d-small-s0 --protocol paper

A further control, DisDiff without its disentangling loss, needs a separate run:
  python main.py --base configs/disdiff/shapes3d.yaml -t code.loss.weight_disentangle=0
  run.name=without-l-dis
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA

from disdiff.build import build_disdiff
from disdiff.commands.terminal import begin_parser, run_script
from disdiff.runs.encoding import INITIAL_IMAGES
from disdiff.runs.results import describe_headlines, encode_codes, score_codes
from disdiff.runs.run_folder import Run, load_run
from ldm.data.source import split_indices, to_float
from ldm.files import save_json

# starts of the encoder, from the simplest to the most informed
STARTS = ("random", "principal", "circular", "bilinear", "eigenmaps")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument(
        "--protocol",
        default="paper",
        choices=("paper", "fast"),
        help="protocol of the metrics (default: paper)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the untrained encoder (default: 0)")
    parser.add_argument("--out", type=Path, help="output JSON (default: RUN/controls.json)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Score every control, print it, and write the JSON."""
    run = load_run(arguments.run)
    _, index = split_indices(run.source, run.config.data.num_train, run.config.evaluation.num_images)
    controls = {
        "PCA of the latents": encode_pca(run, index),
    }
    for start in STARTS[: STARTS.index(run.config.code.encoder.start) + 1]:
        name = f"encoder before training, start={start}"
        controls[name] = encode_untrained(run, index, arguments.seed, start)
    rows = {}
    for name, arrays in controls.items():
        scores, reason = score_codes(arrays, arguments.protocol, run.config.evaluation.seed)
        rows[name] = {"scores": scores, "scores_reason": reason}
        if scores is not None:
            print(f"{name}: {describe_headlines(scores)} ({arguments.protocol})")
    save_json(arguments.out or arguments.run / "controls.json", {"protocol": arguments.protocol, **rows})


@torch.no_grad()
def encode_untrained(run: Run, index: torch.Tensor, seed: int, start: str) -> dict[str, np.ndarray]:
    """Codes of the run's encoder before training; ten batches set its running statistics."""
    torch.manual_seed(seed)
    config = copy.deepcopy(run.config)
    config.code.encoder.start = start
    model = build_disdiff(config, run.model.latent_space, run.model.denoiser, run.source.image_size)
    if start != "random":
        train = split_indices(run.source, config.data.num_train, config.evaluation.num_images)[0]
        images = (to_float(run.source.images(part)) for part in train[:INITIAL_IMAGES].split(256))
        model.eval().fit_start(torch.cat([model.latent_space.encode(image) for image in images]))
    model.networks.encoder.train()
    for part in index[:2560].split(256):
        model.encode(to_float(run.source.images(part)))
    model.eval()
    return encode_codes(model, run.source, index)


@torch.no_grad()
def encode_pca(run: Run, index: torch.Tensor) -> dict[str, np.ndarray]:
    """The first N principal components of the flattened latents, where N is the run's number of units."""
    space = run.model.latent_space
    latents = [space.encode(to_float(run.source.images(part))).flatten(1) for part in index.split(256)]
    codes = PCA(run.config.code.num_units, random_state=0).fit_transform(torch.cat(latents).numpy())
    arrays = {"codes": codes[..., None].astype(np.float32)}
    if run.source.factor_space is not None:
        arrays["factors"] = run.source.factors(index).numpy()
    return arrays


if __name__ == "__main__":
    run_script(main, make_parser())
