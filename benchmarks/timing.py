"""What the benchmarks share: training steps to time, timing in turn, memory, and a name for the machine.

Whatever is compared is timed in turn, in one order and then in the other, after a round of warm-up, so that a
busy or throttled machine slows all of it alike. A ratio is the median of the ratios of rounds. Beside the
wall clock stands the processor time of the process, which other processes disturb less.
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
from ldm.training.optimizer import list_parameters
from ldm.training.stage_task import StageTask

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "disdiff" / "shapes3d.yaml"
STAGES = ("autoencoder", "latent_diffusion", "code")
# Weights are random: the cost of a step does not depend on them. LPIPS needs weights that may not be here.
UNTRAINED = ["data.procedural=always", "stages.pretrained=false", "autoencoder.loss.perceptual=none"]


@dataclass
class Timing:
    """Seconds of each round, by the wall clock and of the processor, shape (rounds,) each."""

    wall: np.ndarray
    processor: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Median, least and most."""
        return {
            "seconds": float(np.median(self.wall)),
            "least": float(self.wall.min()),
            "most": float(self.wall.max()),
            "processor_seconds": float(np.median(self.processor)),
            "rounds": len(self.wall),
        }


def time_in_turn(runs: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Time each of `runs` once a round, the order reversed every other round."""
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
    """How many times faster: median of the rounds' ratios, least and most, and that of processor time."""
    ratios = slow.wall / fast.wall
    return {
        "ratio": float(np.median(ratios)),
        "least": float(ratios.min()),
        "most": float(ratios.max()),
        "processor_ratio": float(np.median(slow.processor / fast.processor)),
    }


def synchronise() -> None:
    """Wait for the accelerator where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def build_config(preset: str, stage: str, batch_size: int, overrides: list[str]) -> Config:
    """The configuration of a preset with a batch size for one stage."""
    batch = [f"{stage}.train.{key}" for key in (f"batch_size={batch_size}", "cuda_batch_factor=1")]
    return load_config([CONFIG], [f"preset={preset}", *UNTRAINED, *batch, *overrides])


@dataclass
class TrainingStep:
    """One training step of a stage, again and again on one batch: loss, gradients, optimiser, average."""

    task: StageTask
    batch: dict[str, Tensor]

    def __post_init__(self) -> None:
        optimizers = self.task.configure_optimizers()
        self.optimizers = [optimizers["optimizer"]] if isinstance(optimizers, dict) else optimizers
        self.task.train()

    def __call__(self) -> None:
        """Take a step. It is numbered beyond every warm-up, so that all terms of the loss take part."""
        self.compute_gradients()
        self.update()

    def compute_gradients(self) -> None:
        """Loss and gradients."""
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
    """So many other processes that compute all the while, each on a core where there is one for it."""
    code = f"import os; print(flush=True)\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            process.stdout.readline()  # it has started
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def build_step(
    preset: str, stage: str, batch_size: int, overrides: list[str] = (), looped: bool = False
) -> TrainingStep:
    """A training step of a stage of DisDiff on Shapes3D, weights random; `looped` takes the plain one."""
    config = build_config(preset, stage, batch_size, list(overrides))
    torch.manual_seed(0)
    context = replace(open_context(config), source=procedural_images())
    batch = example_batch(context, stage, batch_size)
    if stage == "code":
        fit_start(context)
        task = build_disdiff_task(config, context.model, context.machine.device)
        if looped:
            encoder = config.code.encoder
            task = LoopTask(task.model, task.loss, encoder, task.config, task.budget, task.seed)
        open_fields(task)
    else:
        task = build_task(context, stage)
    device = context.machine.device
    return TrainingStep(task.to(device), {name: value.to(device) for name, value in batch.items()})


@cache
def procedural_images() -> ProceduralShapes3D:
    """One data set for all steps: it is drawn when first wanted, which takes seconds."""
    return ProceduralShapes3D()


def fit_start(context: Context) -> None:
    """What the encoder starts as, from few images: the cost of a step does not depend on them."""
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
    """Memory of this process beside files, or all of it at its peak; None where the system does not tell."""
    if not Path("/proc/self/status").exists():
        return None
    key = "VmHWM" if peak else "RssAnon"
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith(key))


def forget_peak() -> None:
    """Let the peak of this process's memory be what it uses now, where the system can (Linux)."""
    return_freed_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def matrix_rate(size: int = 1024, rounds: int = 7) -> float:
    """Floating-point operations per second of a float32 matrix product, the best of some rounds: the most
    that a step could reach. On a CPU by processor time, which other processes disturb less.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    timing = time_in_turn({"product": lambda: a @ b}, rounds, warm_up=2)["product"]
    cpu_seconds = timing.processor / torch.get_num_threads()
    return 2 * size**3 / float(np.min(timing.wall if device == "cuda" else cpu_seconds))


def describe_machine() -> dict[str, Any]:
    """Processor or GPU, threads, versions, date and load: what a number means nothing without."""
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
    """As the system calls it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
