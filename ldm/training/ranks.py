"""Several processes that train one model: `torchrun` starts them, Lightning's DDP averages their gradients.

The batch of the configuration is the whole one. Process r of R reads its rows r B/R, ..., (r + 1) B/R - 1,
and draws the random numbers of the whole batch, of which it keeps its rows: noise belongs to (seed, step,
row), however many processes there are. A loss that is a mean over the batch has then the gradient of one
process with the whole batch, and the learning rate needs no rule. Process 0 alone writes. Accumulation is the
same in time: a process takes its rows in parts, one after the other, and adds their gradients.
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

PATIENCE = timedelta(days=2)  # of processes that wait while process 0 encodes or evaluates
DRAWS = {torch.randn, torch.rand, torch.randint}


@dataclass(frozen=True)
class Share:
    """Part `index` of `count` equal parts of a batch."""

    index: int
    count: int

    def rows(self, size: int) -> slice:
        """Its rows of a batch of `size`.

        Raises:
            UserError: the batch cannot be shared evenly.
        """
        if size % self.count:
            raise UserError(
                f"a batch of {size} cannot be split into {self.count} equal parts; choose a train.batch_size "
                "that the number of processes divides, and trainer.accumulate what is left to each"
            )
        step = size // self.count
        return slice(self.index * step, (self.index + 1) * step)


@dataclass(frozen=True)
class Ranks:
    """This process among all that train: number `rank` of `size`, of which `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def share(self) -> "Share":
        """This process's part of every batch."""
        return Share(self.rank, self.size)

    def trainer_options(self, device: str) -> dict[str, Any]:
        """What Lightning's Trainer needs to know of the processes, on `cpu` or `cuda`."""
        if self.size == 1:
            return {"devices": 1}
        strategy = SharedBatchDDP(
            self,
            find_unused_parameters=True,  # an encoder that is held, terms of some steps only
            process_group_backend="nccl" if device == "cuda" else "gloo",
            timeout=PATIENCE,
        )
        return {"devices": self.local_size, "num_nodes": self.size // self.local_size, "strategy": strategy}


def read_ranks() -> Ranks:
    """What `torchrun` says of this process; a process that it did not start is alone."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


class SharedBatchDDP(DDPStrategy):
    """DDP whose processes draw the random numbers of the whole batch, and of which one saves checkpoints."""

    def __init__(self, ranks: Ranks, **options: Any) -> None:
        super().__init__(**options)
        self.ranks = ranks

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Lightning's hook."""
        with SharedDraws(self.ranks.share):
            return super().training_step(*args, **kwargs)

    def barrier(self, name: str | None = None) -> None:
        """Lightning's hook; nobody waits for a checkpoint, as process 0 saves it by its own clock."""
        if name != "Trainer.save_checkpoint":
            super().barrier(name)


class SharedDraws(TorchFunctionMode):
    """Within it, what is drawn from a generator is drawn for the whole batch, of which `share` keeps its
    rows. One within another draws for the outer's whole.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """PyTorch's hook: every call of one of its functions."""
        kwargs = kwargs or {}
        if func not in DRAWS or kwargs.get("generator") is None:
            return func(*args, **kwargs)
        *before, shape = args if isinstance(args[-1], tuple | list) else (args,)
        whole = func(*before, (shape[0] * self.share.count, *shape[1:]), **kwargs)
        return whole[self.share.rows(len(whole))].clone()


class SharedBatches(Sampler[Tensor]):
    """One share's rows of every batch of positions."""

    def __init__(self, batches: Sampler[Tensor], share: Share) -> None:
        self.batches, self.share = batches, share

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return (positions[self.share.rows(len(positions))] for positions in self.batches)


def share_loader(loader: DataLoader, ranks: Ranks) -> DataLoader:
    """A loader that reads this process's rows of every batch only."""
    if ranks.size == 1:
        return loader
    sampler = SharedBatches(loader.sampler, ranks.share)
    return build_loader(loader.dataset, sampler, loader.num_workers, loader.pin_memory)


class AverageStats(pl.Callback):
    """Makes what a step reports the mean over all processes."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: object, step: int
    ) -> None:
        """Lightning's hook."""
        values = torch.stack([value.detach().float() for value in task.stats.values()])
        means = trainer.strategy.reduce(values, reduce_op="mean")
        task.stats = dict(zip(task.stats, means, strict=True))


@contextmanager
def main_first() -> Iterator[bool]:
    """Let process 0 go first; the others wait for it, and find on disk what it has made.

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
    """Come back when every process has come here."""
    if read_ranks().size > 1:
        dist.barrier(_waiting_group())


@cache
def _waiting_group() -> dist.ProcessGroup:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return dist.new_group(backend="gloo", timeout=PATIENCE)
