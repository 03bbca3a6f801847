"""Training with several processes: `torchrun` starts them and Lightning's DDP averages their gradients.

The configured batch size B is that of all R processes together. Process r reads the rows r B/R, ...,
(r + 1) B/R - 1. It draws the random numbers of the whole batch and keeps those of its rows, so noise depends
on (seed, step, row) and not on R; the first axis of every draw must therefore be the batch. If the loss is a
mean over the batch, the gradient equals that of one process with the whole batch, and the learning rate need
not change. Only process 0 writes files. Gradient
accumulation uses the same mechanism: a process takes its rows in parts and adds their gradients.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Sampler

from ldm.data.batches import build_loader
from ldm.errors import UserError

PATIENCE = timedelta(days=2)  # timeout of processes that wait while process 0 encodes or evaluates
DRAWS = {torch.randn, torch.rand, torch.randint}


@dataclass(frozen=True)
class BatchPart:
    """Part `index` of `count` equal parts of a batch."""

    index: int
    count: int

    def rows(self, size: int) -> slice:
        """The rows of this part in a batch of `size`; UserError if `size` is not divisible by `count`."""
        if size % self.count:
            raise UserError(
                f"a batch of {size} cannot be split into {self.count} equal parts; choose a train.batch_size "
                "that is divisible by the number of processes times trainer.accumulate"
            )
        step = size // self.count
        return slice(self.index * step, (self.index + 1) * step)


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, number of processes (`size`) and number of processes on this machine."""

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which writes files."""
        return self.rank == 0

    @property
    def part(self) -> "BatchPart":
        """This process's part of every batch."""
        return BatchPart(self.rank, self.size)

    def trainer_options(self, device: str) -> dict[str, Any]:
        """Arguments for Lightning's Trainer that describe the processes, on `cpu` or `cuda`."""
        if self.size == 1:
            return {"devices": 1}
        strategy = SharedBatchDDP(
            self,
            find_unused_parameters=True,  # a frozen encoder, or loss terms that only some steps have
            process_group_backend="nccl" if device == "cuda" else "gloo",
            timeout=PATIENCE,
        )
        return {"devices": self.local_size, "num_nodes": self.size // self.local_size, "strategy": strategy}


def read_ranks() -> Ranks:
    """Read this process's rank from the variables of `torchrun`; one single process without `torchrun`."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


def take_own_gpu() -> None:
    """Make "cuda" mean this process's GPU, if `torchrun` started several processes."""
    if read_ranks().size > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


class SharedBatchDDP(DDPStrategy):
    """DDP in which every process draws the whole batch's random numbers and process 0 saves checkpoints."""

    def __init__(self, ranks: Ranks, **options: Any) -> None:
        super().__init__(**options)
        self.ranks = ranks

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Lightning's hook."""
        with SharedDraws(self.ranks.part):
            return super().training_step(*args, **kwargs)

    def barrier(self, name: str | None = None) -> None:
        """Lightning's hook; no waiting for checkpoints, as process 0 saves them by its own clock."""
        if name != "Trainer.save_checkpoint":
            super().barrier(name)


class SharedDraws(TorchFunctionMode):
    """Context in which generators draw for the whole batch and only the rows of `part` are kept.

    If two are nested, draws are made for the whole batch of the outer one.
    """

    def __init__(self, part: BatchPart) -> None:
        super().__init__()
        self.part = part

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """PyTorch's hook, called for every PyTorch function."""
        kwargs = kwargs or {}
        if func not in DRAWS or kwargs.get("generator") is None:
            return func(*args, **kwargs)
        *before, shape = args if isinstance(args[-1], tuple | list) else (args,)
        whole = func(*before, (shape[0] * self.part.count, *shape[1:]), **kwargs)
        return whole[self.part.rows(len(whole))].clone()


class SharedBatches(Sampler[Tensor]):
    """Sampler of one part's rows of every batch."""

    def __init__(self, batches: Sampler[Tensor], part: BatchPart) -> None:
        self.batches, self.part = batches, part

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return (positions[self.part.rows(len(positions))] for positions in self.batches)


def share_loader(loader: DataLoader, ranks: Ranks) -> DataLoader:
    """Return a loader that reads only this process's rows of every batch."""
    if ranks.size == 1:
        return loader
    sampler = SharedBatches(loader.sampler, ranks.part)
    return build_loader(loader.dataset, sampler, loader.num_workers, loader.pin_memory)


class AverageStats(pl.Callback):
    """Averages the statistics of a step over all processes."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: object, step: int
    ) -> None:
        """Lightning's hook."""
        values = torch.stack([value.detach().float() for value in task.stats.values()])
        means = trainer.strategy.reduce(values, reduce_op="mean")
        task.stats = dict(zip(task.stats, means, strict=True))


@contextmanager
def main_first() -> Iterator[bool]:
    """Context that process 0 runs first; the others wait and then find its files on disk.

    Yields:
        Whether this is process 0.
    """
    ranks = read_ranks()
    if ranks.size == 1:
        yield True
        return
    if not ranks.is_main:
        wait_for_all()
    yield ranks.is_main
    if ranks.is_main:
        wait_for_all()


def wait_for_all() -> None:
    """Wait until every process has called this function."""
    if read_ranks().size > 1:
        dist.barrier(_waiting_group())


@cache
def _waiting_group() -> dist.ProcessGroup:
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return dist.new_group(backend="gloo", timeout=PATIENCE)
