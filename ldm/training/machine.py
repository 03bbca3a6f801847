"""Where and how a stage is computed: device, precision, and options that make the same losses cheaper.

None of the options changes what is computed beyond rounding: memory layout, compilation, latents that stay on
the device, and batches in parts whose gradients are added (with dropout and BatchNorm, which see a part).
"""

import os
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from ldm.data.batches import TensorBatches, build_loader
from ldm.device import resolve_device
from ldm.errors import UserError, choose
from ldm.memory import keep_freed_memory
from ldm.training.loggers import check_logger
from ldm.training.ranks import read_ranks

RESIDENT_SHARE = 0.25  # of the device's free memory, at most, for latents that stay there
COMPILATIONS = {"none": None, "default": "default", "cuda_graphs": "reduce-overhead"}
GRAPHS_KEPT = 64  # versions of one function that PyTorch may compile: every width has its own
PRECISIONS = {"float32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed"}


@dataclass
class Machine:
    """How to compute.

    Attributes:
        device: `cpu`, `cuda` or `mps`.
        precision: Lightning's name of it, such as `32-true`.
        tf32: whether products of float32 matrices on CUDA round their factors to TF32.
        channels_last: whether the weights of convolutions, and so all maps, lie channels last.
        compile: `none`, `default`, or `cuda_graphs`; what cannot be compiled runs as it is.
        resident: whether latents lie on the device: `auto` (on CUDA, where they fit), `always` or `never`.
        accumulate: parts in which a process takes its rows of a batch.
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
    """Turn `auto` into what this machine offers; `options` are further attributes of `Machine`.

    Raises:
        UserError: an unknown name, a device that is not here, or what a device cannot do.
    """
    device = resolve_device(device, "trainer.device")
    names = {"auto": PRECISIONS["bf16" if device == "cuda" else "float32"], **PRECISIONS}
    name = choose("trainer.precision", precision, names)
    if device == "mps" and precision not in ("auto", "float32"):
        raise UserError(f"trainer.precision={precision} is not for mps; use trainer.precision=float32 there")
    if device == "mps" and read_ranks().size > 1:
        raise UserError("several processes cannot share trainer.device=mps; start one, without torchrun")
    machine = Machine(device, name, tf32=precision == "tf32", **options)
    choose("trainer.compile", machine.compile, COMPILATIONS)
    choose("trainer.resident", machine.resident, dict.fromkeys(("auto", "always", "never")))
    check_logger(machine.logger)
    return machine


def configure_process(machine: Machine, threads: int | None) -> None:
    """Set for the whole process how many CPU threads compute, joblib's included (None: as they are), and on
    a CPU that freed memory is kept.
    """
    if threads:
        torch.set_num_threads(threads)
        os.environ["LOKY_MAX_CPU_COUNT"] = str(threads)  # what `joblib.cpu_count` counts at most
    if machine.device == "cpu":
        keep_freed_memory()


def prepare(task: nn.Module, machine: Machine) -> None:
    """Lay out and compile the networks of `task`, and set what PyTorch keeps for the whole process.

    Compiled calls keep the names of parameters; evaluation and the average of the weights stay uncompiled.
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


def release(task: nn.Module) -> None:
    """Undo what `prepare` compiled: what is compiled is so for training only."""
    for module in task.modules():
        module._compiled_call_impl = None  # what `nn.Module.compile` sets; PyTorch has no way back


class GraphSteps(pl.Callback):
    """Tells recorded CUDA graphs where a step begins: what they gave in the last one may be overwritten."""

    def on_train_batch_start(self, *hook: Any) -> None:
        """Lightning's hook."""
        torch.compiler.cudagraph_mark_step_begin()


def is_network(module: nn.Module) -> bool:
    """Whether `module` has a forward pass of this project's: PyTorch's own layers are compiled within it."""
    cls = type(module)
    return not cls.__module__.startswith("torch.") and cls.forward is not nn.Module.forward


def make_resident(loader: DataLoader, machine: Machine) -> DataLoader:
    """A loader of the same batches whose arrays lie on the device, where `machine` says so and they fit.

    A loader of images that are drawn or read one by one stays as it is.
    """
    batches = loader.dataset
    if machine.resident == "never" or not isinstance(batches, TensorBatches):
        return loader
    if machine.resident == "auto" and (machine.device != "cuda" or not fits(batches)):
        return loader
    device = torch.device(machine.device)
    everything = batches[torch.arange(len(batches))]  # read from the disk: a map cannot be a tensor
    arrays = {name: rows.to(device) for name, rows in everything.items()}
    return build_loader(TensorBatches(arrays), loader.sampler, num_workers=0, pin_memory=False)


def fits(batches: TensorBatches) -> bool:
    """Whether the arrays take no more than their share of what is free on the current CUDA device."""
    first = batches[torch.zeros(1, dtype=torch.int64)]
    size = len(batches) * sum(rows.numel() * rows.element_size() for rows in first.values())
    return size <= RESIDENT_SHARE * torch.cuda.mem_get_info()[0]
