"""Images per second of every way of reading, beside what training consumes: does data limit?

usage:
  python benchmarks/data_rates.py                       presets paper and small, batch 16
  python benchmarks/data_rates.py --presets small --batch-size 128 --rounds 9

Ways of reading: `procedural`, images drawn as they are wanted; `h5`, images of a `3dshapes.h5`, a procedural
one that is written here first; `latents`, the cache of the later stages; `latents and images`, for an encoder
that reads images. `share` is the time of reading a batch over that of the training step which wants it;
beyond 0.1 data would be said to limit.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timing import STAGES, TrainingStep, build_step, describe_machine, procedural_images, time_in_turn
from torch import Tensor

from disdiff.commands.terminal import begin_parser, run_script
from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader
from ldm.data.latents import encode_to_cache
from ldm.data.shapes3d import Shapes3D, write_shapes3d
from ldm.files import save_json

LIMIT = 0.1  # of a step's time
BATCHES_PER_ROUND = 20
WANTED = {"autoencoder": ("procedural", "h5"), "latent_diffusion": ("latents",)}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("--presets", nargs="+", choices=("paper", "small"), default=["paper", "small"])
    parser.add_argument("--batch-size", type=int, default=16, help="of a training step (16)")
    parser.add_argument("--num-images", type=int, default=8192, help="of the files that are written (8192)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (5)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data_rates.json"), help="JSON")
    return parser


def list_readers(folder: Path, num_images: int, latent: Tensor) -> dict[str, ImageBatches | TensorBatches]:
    """Every way of reading, by name; `latent` is one image's cached statistics, shape (C, h, w)."""
    procedural = procedural_images()
    order = torch.randperm(len(procedural), generator=torch.Generator().manual_seed(0))
    chosen = order[:num_images].sort().values
    write_shapes3d(folder / "h5" / "3dshapes.h5", procedural, chosen)
    source = Shapes3D(folder / "h5")
    index = torch.arange(len(source))

    def encode(images: Tensor) -> Tensor:
        """Latents that differ from image to image, at no cost."""
        return latent.expand(len(images), *latent.shape) * images.float().mean(dim=(1, 2, 3), keepdim=True)

    cache = encode_to_cache(encode, source, index, folder / "cache", "key", 256, with_images=True)
    return {
        "procedural": ImageBatches(procedural, order),
        "h5": ImageBatches(source, index),
        "latents": TensorBatches({"statistics": cache.latents}),
        "latents and images": TensorBatches({"statistics": cache.latents, "image": cache.images}),
    }


def endless(batches: ImageBatches | TensorBatches, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Batches as training reads them, without end."""
    for seed in itertools.count():
        sampler = StepSampler(len(batches), batch_size, 1000, seed)
        yield from build_loader(batches, sampler, num_workers=0, pin_memory=torch.cuda.is_available())


def measure_data(
    steps: dict[str, TrainingStep], batch_size: int, rounds: int, num_images: int
) -> dict[str, Any]:
    """Images per second that each way gives and each stage's step consumes, and the share of every pair.

    Args:
        steps: of the stages, by name.
        batch_size: of those steps.
        rounds: of which the median counts.
        num_images: of the files that are written.
    """
    latent = steps["latent_diffusion"].batch["statistics"][0].cpu()
    with tempfile.TemporaryDirectory() as folder:
        readers = list_readers(Path(folder), num_images, latent)
        streams = {name: endless(batches, batch_size) for name, batches in readers.items()}
        runs = {
            name: lambda stream=stream: [next(stream) for _ in range(BATCHES_PER_ROUND)]
            for name, stream in streams.items()
        }
        timings = time_in_turn({**runs, **steps}, rounds)
        for stream in streams.values():
            stream.close()
        del readers
    seconds = {name: timing.summary()["seconds"] for name, timing in timings.items()}
    reading = {name: seconds[name] / BATCHES_PER_ROUND for name in streams}
    reads_images = "image" in steps["code"].batch
    wanted = {**WANTED, "code": ("latents and images" if reads_images else "latents",)}
    shares = {stage: {way: reading[way] / seconds[stage] for way in wanted[stage]} for stage in steps}
    for stage, ways in shares.items():
        for way, share in ways.items():
            rates = batch_size / reading[way], batch_size / seconds[stage]
            print(
                f"{stage}: {way} gives {rates[0]:.0f} images/s, training takes {rates[1]:.1f} "
                f"({share:.1%} of a step)",
                flush=True,
            )
    return {
        "reading_images_per_second": {name: batch_size / value for name, value in reading.items()},
        "training_images_per_second": {stage: batch_size / seconds[stage] for stage in steps},
        "share": shares,
        "limit": LIMIT,
        "within": all(share <= LIMIT for ways in shares.values() for share in ways.values()),
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure every preset, print it, and write the JSON."""
    content = {"machine": describe_machine(), "data": "procedural", "results": {}}
    for preset in arguments.presets:
        print(preset, flush=True)
        steps = {stage: build_step(preset, stage, arguments.batch_size) for stage in STAGES}
        sizes = arguments.batch_size, arguments.rounds, arguments.num_images
        content["results"][preset] = measure_data(steps, *sizes)
        save_json(arguments.out, content)
    print(arguments.out)


if __name__ == "__main__":
    run_script(main, make_parser())
