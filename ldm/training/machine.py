"""Device, precision and speed options of training.

The speed options are memory layout, compilation, latents kept on the device, and gradient accumulation over
parts of a batch. They change results only by rounding; the exception is accumulation with dropout or
BatchNorm, which then see only a part of the batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from ldm.data.batches import TensorBatches, build_loader
from ldm.device import resolve_device
from ldm.errors import UserError, check_option, look_up
from ldm.memory import keep_freed_memory
from ldm.training.loggers import check_logger
from ldm.training.ranks import read_ranks, take_own_gpu

RESIDENT_SHARE = 0.25  # largest fraction of the device's free memory for latents kept there
COMPILATIONS = {"none": None, "default": "default", "cuda_graphs": "reduce-overhead"}
GRAPHS_KEPT = 64  # versions of one function that PyTorch may compile: one per width
PRECISIONS = {"float32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed"}


@dataclass
class Machine:
    """Device, precision and speed options.

    Attributes:
        device: `cpu`, `cuda` or `mps`.
        precision: Lightning's name of the precision, such as `32-true`.
        tf32: whether products of float32 matrices on CUDA round their factors to TF32.
        channels_last: whether convolution weights, and therefore all maps, are in channels-last layout.
        compile: `none`, `default`, or `cuda_graphs`; functions that cannot be compiled run uncompiled.
        resident: whether latents are kept on the device: `auto` (on CUDA, if they fit), `always` or `never`.
        accumulate: number of parts into which a process splits its rows of a batch.
        logger: where training is shown beside `log.csv`, see `ldm.training.loggers`.
    """

    device: str
    precision: str
    tf32: bool = False
    channels_last: bool = False
    compile: str = "none"
    resident: str = "auto"
    accumulate: int = 1
    logger: str = "csv"


def resolve_machine(device: str, precision: str, **options: Any) -> Machine:
    """Replace `auto` by what this machine supports; `options` are further attributes of `Machine`.

    Raises:
        UserError: a name is unknown, the device is not available, or it lacks an option.
    """
    device = resolve_device(device, "trainer.device")
    names = {"auto": PRECISIONS["bf16" if device == "cuda" else "float32"], **PRECISIONS}
    name = look_up("trainer.precision", precision, names)
    if device == "mps" and precision not in ("auto", "float32"):
        raise UserError(f"trainer.precision={precision} is not for mps; use trainer.precision=float32 there")
    if device == "mps" and read_ranks().size > 1:
        raise UserError("several processes cannot share trainer.device=mps; start one, without torchrun")
    if device == "cuda":
        take_own_gpu()
    machine = Machine(device, name, tf32=precision == "tf32", **options)
    check_option("trainer.compile", machine.compile, COMPILATIONS)
    check_option("trainer.resident", machine.resident, ("auto", "always", "never"))
    check_logger(machine.logger)
    return machine


def configure_process(machine: Machine, threads: int | None) -> None:
    """Set the number of CPU threads of this process, joblib's included, and on a CPU keep freed memory.

    `threads` None leaves the number of threads unchanged.
    """
    if threads:
        torch.set_num_threads(threads)
        os.environ["LOKY_MAX_CPU_COUNT"] = str(threads)  # upper limit of `joblib.cpu_count`
    if machine.device == "cpu":
        keep_freed_memory()


def prepare(task: nn.Module, machine: Machine) -> None:
    """Set the memory layout of the networks of `task`, compile them, and set PyTorch's global options.

    Compilation keeps the names of parameters. The average of the weights is not compiled.
    """
    if machine.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = machine.tf32
    task.to(memory_format=torch.channels_last if machine.channels_last else torch.contiguous_format)
    mode = COMPILATIONS[machine.compile]
    if mode is None:
        return
    torch._dynamo.config.suppress_errors = True  # then a function runs uncompiled
    torch._dynamo.config.recompile_limit = GRAPHS_KEPT
    average = set() if task.ema is None else set(task.ema.modules())
    for module in task.modules():
        if module is not task and module not in average and is_network(module):
            module.compile(mode=mode)


@contextmanager
def on_device(device: str, *modules: nn.Module) -> Iterator[None]:
    """Context in which `modules` are on a device; afterwards they are on the CPU."""
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module in modules:
            module.to("cpu")


def release(task: nn.Module) -> None:
    """Undo the compilation by `prepare`, which is for training only."""
    for module in task.modules():
        module._compiled_call_impl = None  # set by `nn.Module.compile`; PyTorch has no function to undo it


class GraphSteps(pl.Callback):
    """Marks the beginning of a step for CUDA graphs, which may then overwrite outputs of the step before."""

    def on_train_batch_start(self, *hook: Any) -> None:
        """Lightning's hook."""
        torch.compiler.cudagraph_mark_step_begin()


def is_network(module: nn.Module) -> bool:
    """Whether `module` has its own forward pass and is not one of PyTorch's layers."""
    cls = type(module)
    return not cls.__module__.startswith("torch.") and cls.forward is not nn.Module.forward


def make_resident(loader: DataLoader, machine: Machine) -> DataLoader:
    """Return a loader of the same batches with arrays on the device, if `machine` allows it and they fit.

    Otherwise, and for loaders of single images, `loader` itself is returned.
    """
    batches = loader.dataset
    if machine.resident == "never" or not isinstance(batches, TensorBatches):
        return loader
    if machine.resident == "auto" and (machine.device != "cuda" or not fits(batches)):
        return loader
    device = torch.device(machine.device)
    everything = batches[torch.arange(len(batches))]  # reads memory-mapped arrays into memory
    arrays = {name: rows.to(device) for name, rows in everything.items()}
    return build_loader(TensorBatches(arrays), loader.sampler, num_workers=0, pin_memory=False)


def fits(batches: TensorBatches) -> bool:
    """Whether the arrays need at most `RESIDENT_SHARE` of the free memory of the current CUDA device."""
    first = batches[torch.zeros(1, dtype=torch.int64)]
    size = len(batches) * sum(rows.numel() * rows.element_size() for rows in first.values())
    return size <= RESIDENT_SHARE * torch.cuda.mem_get_info()[0]
