"""Samplers, data sets and loaders of whole batches, addressed by training step.

Step s takes the positions s * B, ..., (s + 1) * B - 1 of an endless stream of permutations of the data set.
The permutation of epoch e depends only on (seed, e), so a run resumed at step k gets the same batches as an
uninterrupted run. A batch may contain the end of one epoch and the start of the next.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ldm.data.arrays import Rows, gather
from ldm.data.source import ImageSource
from ldm.errors import UserError


class StepSampler(Sampler[Tensor]):
    """Yields one tensor of positions, shape (batch_size,) int64, per training step; it has no state."""

    def __init__(
        self, num_items: int, batch_size: int, num_steps: int, seed: int, first_step: int = 0
    ) -> None:
        """Yield batches for the steps first_step, ..., num_steps - 1, of positions 0, ..., num_items - 1."""
        if num_items < 1 or batch_size < 1 or min(num_steps, seed, first_step) < 0:
            raise ValueError(
                f"expected num_items and batch_size of 1 or more and the rest of 0 or more, got "
                f"{num_items=}, {batch_size=}, {num_steps=}, {seed=}, {first_step=}"
            )
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.num_steps, self.first_step = num_steps, first_step

    def __len__(self) -> int:
        """Number of all steps, including those before `first_step`, as a resumed Lightning loop expects."""
        return self.num_steps

    def __iter__(self) -> Iterator[Tensor]:
        epoch, start = divmod(self.first_step * self.batch_size, self.num_items)
        order = self._permutation(epoch)[start:]
        for _ in range(self.first_step, self.num_steps):
            while len(order) < self.batch_size:
                epoch += 1
                order = torch.cat([order, self._permutation(epoch)])
            yield order[: self.batch_size].clone()
            order = order[self.batch_size :]

    def _permutation(self, epoch: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng([self.seed, epoch]).permutation(self.num_items))


class ImageBatches(Dataset[dict[str, Tensor]]):
    """Batches of an image source: `image` (B, 3, H, W) uint8 and `index` (B,) int64 in the source."""

    def __init__(self, source: ImageSource, index: Tensor) -> None:
        """Use the images at `index`, shape (n,) int64; batch positions are positions in `index`."""
        self.source, self.index = source, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        """The batch at `positions`, shape (B,) int64."""
        index = self.index[positions]
        return {"image": self.source.images(index), "index": index}


class TensorBatches(Dataset[dict[str, Tensor]]):
    """Batches of named arrays of equal length, in memory or on disk."""

    def __init__(self, arrays: Mapping[str, Rows | Tensor]) -> None:
        """Use `arrays`, each of shape (n, ...)."""
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected arrays of one length, got {lengths}")
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        """The batch at `positions`, shape (B,) int64."""
        return {name: gather(array, positions) for name, array in self.arrays.items()}


class Loader(DataLoader):
    """A loader that raises a worker's `UserError` with its message only, without the worker's traceback."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        try:
            yield from super().__iter__()
        except UserError as error:
            last = str(error).rstrip().splitlines()[-1]
            raise UserError(last.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")) from error


def build_loader(
    dataset: Dataset[dict[str, Tensor]], sampler: Sampler[Tensor], num_workers: int, pin_memory: bool
) -> DataLoader:
    """A loader of whole batches, one per item of `sampler`; it does not use the global random generator."""
    return Loader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),
    )
