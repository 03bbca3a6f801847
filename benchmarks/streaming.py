"""Training from disk against training from memory: images per second, and anonymous memory at its peak.

    python benchmarks/streaming.py                       the procedural Shapes3D, 20,000 images, made here
    python benchmarks/streaming.py --root data/shapes3d  the file that lies there, at full size

Two ways of reading are timed in turn, so that a busy machine slows both: arrays in memory, and the
memory-mapped arrays that the pipeline reads. Each in two stages: `images` are those of the autoencoder's
training, `latents` those of the later stages, from the cache. A step reads a batch and computes on it for
about as long as the training step of the preset `smoke` takes (`--work` products of 256x256 matrices; 0 for
reading alone). Anonymous memory is what a process has beside files; mapped files do not count, as the system
takes them back when it needs to.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader
from ldm.data.latents import encode_to_cache
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.shapes3d import Shapes3D, write_shapes3d

BATCH_SIZE = 128
LATENT = (4, 8, 8)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        root = arguments.root or Path(folder) / "data"
        if arguments.root is None:
            source = ProceduralShapes3D()
            order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
            write_shapes3d(root / "3dshapes.h5", source, order[: arguments.num_images].sort().values)
            del source, order
        imported = anonymous_megabytes()
        source = Shapes3D(root)
        index = torch.arange(len(source))
        cache = encode_to_cache(shrink, source, index, Path(folder) / "cache", "key", 256)
        mapped = {
            "images": ImageBatches(source, index),
            "latents": TensorBatches({"statistics": cache.latents}),
        }
        streamed_peak = max(time_steps(each, arguments.steps, arguments.work)[1] for each in mapped.values())
        result = {
            "num_images": len(source),
            "procedural": source.procedural,
            "streamed_megabytes_above_import": round(streamed_peak - imported),
        }
        for stage, batches in mapped.items() if arguments.rounds else ():
            resident = hold(batches)
            result[stage] = compare(batches, resident, arguments.rounds, arguments.steps, arguments.work)
    print(json.dumps(result, indent=2))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder of 3dshapes.h5 (a procedural one, made here)")
    parser.add_argument("--num-images", type=int, default=20_000, help="of the procedural one (20000)")
    parser.add_argument("--steps", type=int, default=100, help="of each round (100)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of which the fastest counts; 0 measures memory alone (5)"
    )
    parser.add_argument("--work", type=int, default=100, help="matrix products a step (100)")
    parser.add_argument("--scratch", type=Path, help="where temporary files go")
    return parser.parse_args()


def shrink(images: torch.Tensor) -> torch.Tensor:
    """Stands for an autoencoder: means of blocks, in the shape of the latents of the preset `small`."""
    blocks = torch.nn.functional.avg_pool2d(images.float(), images.shape[-1] // LATENT[1])
    return torch.cat([blocks, blocks[:, :1]], dim=1)


def hold(batches: object) -> TensorBatches:
    """The same batches from memory."""
    first = batches[torch.arange(1)]
    arrays = {
        name: torch.empty(len(batches), *value.shape[1:], dtype=value.dtype) for name, value in first.items()
    }
    for part in torch.arange(len(batches)).split(1024):
        for name, value in batches[part].items():
            arrays[name][part] = value
    return TensorBatches(arrays)


def compare(mapped: object, resident: object, rounds: int, steps: int, work: int) -> dict[str, float]:
    """Images per second of both, rounds taken in turn, the fastest of each, and their ratio."""
    speeds = {"resident": 0.0, "streamed": 0.0}
    for _ in range(rounds):
        for name, batches in (("resident", resident), ("streamed", mapped)):
            speeds[name] = max(speeds[name], time_steps(batches, steps, work)[0])
    return {
        **{name: round(speed) for name, speed in speeds.items()},
        "ratio": speeds["streamed"] / speeds["resident"],
    }


def time_steps(batches: object, steps: int, work: int) -> tuple[float, float]:
    """Images per second, and the peak of anonymous memory in megabytes."""
    matrix, peak = torch.ones(256, 256), 0.0
    loader = build_loader(batches, StepSampler(len(batches), BATCH_SIZE, steps, seed=0), 0, pin_memory=False)
    start = time.perf_counter()
    for _ in loader:
        for _ in range(work):
            matrix = matrix @ matrix.T / 256
        peak = max(peak, anonymous_megabytes())
    return steps * BATCH_SIZE / (time.perf_counter() - start), peak


def anonymous_megabytes() -> float:
    """Anonymous memory of this process (Linux)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
