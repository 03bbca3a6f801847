"""Compare training from disk with training from memory: images per second, and anonymous memory.

usage:
  python benchmarks/streaming.py                         full size: writes a procedural Shapes3D first,
                                                         needs 7 GB of disk and 8 GB of memory
  python benchmarks/streaming.py --root data/shapes3d    use the file in this folder
  python benchmarks/streaming.py --num-images 20000 --preset smoke --steps 10 --rounds 3
                                                         a quick trial

Each stage is opened as `main.py` opens it (the first stage after the autoencoder builds the latent cache) and
takes real training steps from the loader that it has in a run. Weights are random, which does not change the
cost. Meanwhile a thread records the peak of anonymous memory above that of the imports. Anonymous memory
excludes mapped files, which the system can reclaim at any time. Then the same steps are timed on the mapped
arrays (`streamed`) and on copies in memory (`resident`), in pairs with the same images and alternating order,
after a warm-up pair. `speed` is the ratio streamed / resident over pairs: median, minimum and maximum.
`reading` is the same for the loaders without training.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timing import (
    CONFIG,
    STAGES,
    UNTRAINED,
    TrainingStep,
    anonymous_megabytes,
    compare,
    describe_machine,
    fit_start,
    open_fields,
    time_in_turn,
)

from disdiff.commands.terminal import begin_parser, run_script
from disdiff.config.schema import load_config
from disdiff.runs.context import Context, open_context
from disdiff.runs.encoding import code_batches, latent_batches
from disdiff.runs.training import build_task
from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader
from ldm.data.shapes3d import SHAPES3D
from ldm.errors import UserError
from ldm.memory import return_freed_memory

PREPARE = Path(__file__).resolve().parents[1] / "scripts" / "prepare_data.py"
MEGABYTES, SPEED = 2000, 0.95  # upper limit of memory, lower limit of speed
Batches = ImageBatches | TensorBatches


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("--root", type=Path, help="folder of a Shapes3D file (default: a new one)")
    parser.add_argument(
        "--num-images", type=int, default=len(SHAPES3D), help="images of the new file (480000)"
    )
    parser.add_argument("--preset", default="small", choices=("small", "smoke", "paper"), help="(small)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=40, help="steps per half of a pair (default: 40)")
    parser.add_argument("--rounds", type=int, default=8, help="pairs; 0 measures memory only (default: 8)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's)")
    parser.add_argument("--scratch", type=Path, help="folder of temporary files")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Measure memory, then speed; print both as JSON and compare them with the limits."""
    imported = anonymous_megabytes()
    if imported is None:
        raise UserError(
            "anonymous memory is read from /proc/self/status, which this system lacks; run on Linux"
        )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        root, peaks = arguments.root or render(Path(folder) / "data", arguments.num_images), {}
        for stage in arguments.stages:
            with watch_memory() as peak:
                context, batches, step = open_stage(stage, root, Path(folder), arguments)
                walk(batches, 0, arguments.steps, step)
            peaks[stage] = round(max(peak) - imported)
        result = {
            "machine": describe_machine(),
            "preset": arguments.preset,
            "num_images": len(context.source),
            "procedural": context.source.procedural,
            "megabytes_above_imports": peaks,
        }
        for stage in arguments.stages if arguments.rounds else ():
            _, batches, step = open_stage(stage, root, Path(folder), arguments)
            result[stage] = compare_speeds(batches, step, arguments)
    print(json.dumps(result, indent=2))
    print("\n".join(judge(result)))


def render(root: Path, num_images: int) -> Path:
    """Write procedural images in the published layout, in a separate process."""
    command = [sys.executable, str(PREPARE), "shapes3d", "--procedural", "--root", str(root)]
    if subprocess.run([*command, "--num-images", str(num_images)], stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"no procedural Shapes3D could be written to {root}; see above")
    return root


def open_stage(
    stage: str, root: Path, folder: Path, arguments: argparse.Namespace
) -> tuple[Context, Batches, TrainingStep]:
    """A run on a file, as `main.py` opens it, what a stage is trained on, and its training step."""
    overrides = [*UNTRAINED, f"preset={arguments.preset}", f"data.root={root}", f"run.root={folder}"]
    config = load_config([CONFIG], [*overrides, "data.procedural=never", "data.num_train=null"])
    config.trainer.threads = arguments.threads
    context = open_context(config)
    if stage == "autoencoder":
        batches: Batches = ImageBatches(context.source, context.train_index)
    elif stage == "latent_diffusion":
        batches = latent_batches(context)
    else:
        batches = code_batches(context)
        fit_start(context)
    task = build_task(context, stage)
    if stage == "code":
        open_fields(task)
    return context, batches, TrainingStep(task.to(context.machine.device), batches[torch.arange(1)])


def walk(batches: Batches, seed: int, num_steps: int, step: TrainingStep, train: bool = True) -> None:
    """Run some training steps, or only read batches, on the images that `seed` selects."""
    budget = step.task.budget
    sampler = StepSampler(len(batches), budget.batch_size, num_steps, seed)
    device = next(step.task.parameters()).device
    for batch in build_loader(batches, sampler, 0, pin_memory=device.type == "cuda"):
        if train:
            step.batch = {name: value.to(device) for name, value in batch.items()}
            step()


@contextmanager
def watch_memory(seconds: float = 0.005) -> Iterator[list[float]]:
    """Yield a list of anonymous memory in megabytes, which is extended at every new peak.

    Freed memory is returned to the system first, so it is not counted.
    """
    return_freed_memory()
    peaks, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(seconds):
            now = anonymous_megabytes() or 0.0
            if now > peaks[-1]:
                peaks.append(now)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def hold(batches: Batches) -> TensorBatches:
    """Copy the batches into memory."""
    first = batches[torch.arange(1)]
    arrays = {
        name: torch.empty(len(batches), *value.shape[1:], dtype=value.dtype) for name, value in first.items()
    }
    for part in torch.arange(len(batches)).split(1024):
        for name, value in batches[part].items():
            arrays[name][part] = value
    return TensorBatches(arrays)


def compare_speeds(batches: Batches, step: TrainingStep, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ratio of streamed to resident speed in pairs, for training and for reading only."""
    kinds = {"resident": hold(batches), "streamed": batches}
    images = arguments.steps * step.task.budget.batch_size

    def run(kind: str, train: bool) -> Callable[[], None]:
        seeds = iter(range(1, 10**9))  # new images in every pair, the same in both halves of a pair
        return lambda: walk(kinds[kind], next(seeds), arguments.steps, step, train)

    result = {}
    for name, train in (("speed", True), ("reading", False)):
        times = time_in_turn({kind: run(kind, train) for kind in kinds}, arguments.rounds)
        per_second = {
            f"{kind}_images_per_second": images / times[kind].summary()["seconds"] for kind in kinds
        }
        result[name] = {**compare(times["resident"], times["streamed"]), **per_second}
    return result


def judge(result: dict[str, Any]) -> Iterator[str]:
    """Lines that compare the results with the limits."""
    peaks = result["megabytes_above_imports"]
    most = max(peaks, key=peaks.get)
    verdict = "kept" if peaks[most] <= MEGABYTES else "MISSED"
    yield f"anonymous memory above the imports: {peaks[most]} MB ({most}); at most {MEGABYTES}: {verdict}"
    for stage in (stage for stage in STAGES if stage in result):
        speed = result[stage]["speed"]
        verdict = "kept" if speed["ratio"] >= SPEED else "MISSED"
        spread = f"{speed['least']:.3f} to {speed['most']:.3f}"
        yield f"{stage}: streamed at {speed['ratio']:.3f} ({spread}) of resident; {SPEED}: {verdict}"


if __name__ == "__main__":
    run_script(main, make_parser())
