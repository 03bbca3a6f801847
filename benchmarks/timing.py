"""Shared code of the benchmarks: training steps, interleaved timing, memory, description of the machine.

Alternatives are timed in turn, with the order reversed every other round and after a warm-up round, so that a
busy or throttled machine slows all of them equally. A ratio is the median over the ratios of the rounds. The
processor time of the process, which other processes disturb less, is reported next to the wall clock time.
"""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loop_baseline import LoopTask
from torch import Tensor

from disdiff.build import build_disdiff_task
from disdiff.config.schema import Config, load_config
from disdiff.method.tasks import DisDiffTask
from disdiff.runs.context import Context, open_context
from disdiff.runs.encoding import INITIAL_IMAGES, example_batch
from disdiff.runs.training import build_task
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.source import to_float
from ldm.memory import return_freed_memory
from ldm.training.optimizer import TrainSettings, list_parameters
from ldm.training.stage_task import StageTask

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "disdiff" / "shapes3d.yaml"
STAGES = ("autoencoder", "latent_diffusion", "code")
# Weights are random, which does not change the cost. LPIPS is off, because its weights may be missing.
UNTRAINED = [
    *("data.procedural=always", "stages.pretrained=false", "autoencoder.loss.perceptual=none"),
    # the published losses
    *("code.loss.auxiliary.weight=0", "code.loss.weight_correlation=0", "code.loss.contradiction=0"),
]


@dataclass
class Timing:
    """Wall clock and processor seconds of each round, shape (rounds,) each."""

    wall: np.ndarray
    processor: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Median, minimum and maximum."""
        return {
            "seconds": float(np.median(self.wall)),
            "least": float(self.wall.min()),
            "most": float(self.wall.max()),
            "processor_seconds": float(np.median(self.processor)),
            "rounds": len(self.wall),
        }


def time_in_turn(runs: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Time each of `runs` once per round; the order is reversed every other round."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name in list(runs) if number % 2 else reversed(list(runs)):
            start = time.perf_counter(), time.process_time()
            runs[name]()
            synchronise()
            if number >= warm_up:
                taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: Timing(*np.array(seconds).T) for name, seconds in taken.items()}


def compare(slow: Timing, fast: Timing) -> dict[str, float]:
    """Speed-up: median, minimum and maximum of the rounds' ratios, and the median for processor time."""
    ratios = slow.wall / fast.wall
    return {
        "ratio": float(np.median(ratios)),
        "least": float(ratios.min()),
        "most": float(ratios.max()),
        "processor_ratio": float(np.median(slow.processor / fast.processor)),
    }


def synchronise() -> None:
    """Wait for the accelerator if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def build_config(preset: str, stage: str, batch_size: int, overrides: list[str]) -> Config:
    """The configuration of a preset, with the batch size of one stage replaced."""
    batch = [f"{stage}.train.{key}" for key in (f"batch_size={batch_size}", "cuda_batch_factor=1")]
    return load_config([CONFIG], [f"preset={preset}", *UNTRAINED, *batch, *overrides])


@dataclass
class TrainingStep:
    """A repeatable training step of a stage on one batch: loss, gradients, optimiser, EMA."""

    task: StageTask
    batch: dict[str, Tensor]

    def __post_init__(self) -> None:
        optimizers = self.task.configure_optimizers()
        self.optimizers = [optimizers["optimizer"]] if isinstance(optimizers, dict) else optimizers
        self.task.train()

    def __call__(self) -> None:
        """Run a step, with a step number beyond all warm-ups, so that all loss terms are active."""
        self.compute_gradients()
        self.update()

    def compute_gradients(self) -> None:
        """Compute loss and gradients."""
        step = max(1000, getattr(self.task, "freeze_steps", 0))
        self.task.compute_loss(self.batch, step, self.task.step_generator(step)).backward()

    def update(self) -> None:
        """Clip, step, average."""
        clip = self.task.config.grad_clip
        for optimizer in self.optimizers:
            if clip:
                torch.nn.utils.clip_grad_norm_(list_parameters(optimizer), clip)
            optimizer.step()
            optimizer.zero_grad()
        if self.task.ema is not None:
            self.task.ema.update(self.task.trained, 1000)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run `count` busy processes in the meantime, each on its own core if there are enough."""
    code = f"import os; print(flush=True)\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            process.stdout.readline()  # wait until the process has started
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def build_step(
    preset: str, stage: str, batch_size: int, overrides: list[str] = (), looped: bool = False
) -> TrainingStep:
    """A training step of a stage of DisDiff on Shapes3D with random weights; `looped` uses `LoopTask`."""
    config = build_config(preset, stage, batch_size, list(overrides))
    torch.manual_seed(0)
    context = replace(open_context(config), source=procedural_images())
    batch = example_batch(context, stage, batch_size)
    if stage == "code":
        fit_start(context)
        task = build_disdiff_task(config, context.model, context.machine.device)
        if looped:
            settings = TrainSettings(task.config, task.budget, task.seed)
            task = LoopTask(task.model, task.loss, config.code.encoder, settings)
        open_fields(task)
    else:
        task = build_task(context, stage)
    device = context.machine.device
    return TrainingStep(task.to(device), {name: value.to(device) for name, value in batch.items()})


@cache
def procedural_images() -> ProceduralShapes3D:
    """The data set of all steps, built on first use, which takes seconds."""
    return ProceduralShapes3D()


def fit_start(context: Context) -> None:
    """Fit the start of the encoder to a few images, whose number does not affect the cost of a step."""
    images = context.source.images(context.train_index[: INITIAL_IMAGES // 16])
    with torch.no_grad():
        context.model.eval().fit_start(context.latent_space.encode(to_float(images)))


def open_fields(task: DisDiffTask) -> None:
    """Give layers that start at zero small random weights, so that no gradient is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.trained.decoder.parameters():
            if not parameter.any():
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))


def anonymous_megabytes(peak: bool = False) -> float | None:
    """Anonymous memory of this process, or its total peak memory; None if the system does not report it."""
    if not Path("/proc/self/status").exists():
        return None
    key = "VmHWM" if peak else "RssAnon"
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith(key))


def forget_peak() -> None:
    """Reset the peak memory of this process to the current use (Linux only)."""
    return_freed_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def matrix_rate(size: int = 1024, rounds: int = 7) -> float:
    """Floating-point operations per second of a float32 matrix product, the best of some rounds.

    This is an upper bound for a training step. On a CPU it is based on processor time, which other processes
    disturb less.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    timing = time_in_turn({"product": lambda: a @ b}, rounds, warm_up=2)["product"]
    cpu_seconds = timing.processor / torch.get_num_threads()
    return 2 * size**3 / float(np.min(timing.wall if device == "cuda" else cpu_seconds))


def describe_machine() -> dict[str, Any]:
    """Processor or GPU, threads, versions, date and load of the machine."""
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": os.getloadavg()[0],
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else None,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }


def processor_name() -> str:
    """Name of the processor as the system reports it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
