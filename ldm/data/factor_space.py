"""The ground-truth factors: the grid of a synthetic data set, index <=> factors, and labels of single images.

With sizes (s_1, ..., s_F) the combination (f_1, ..., f_F) has the index sum_i f_i * prod_{j > i} s_j: the
last factor varies fastest.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FactorSpace:
    """Names and sizes of the factors; its length is the number of combinations.

    Attributes:
        names: names of the factors.
        sizes: number of values of each.
        values: texts of each factor's values, in the order of their numbers; empty where there are none.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    values: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.sizes) or len(set(self.names)) != len(self.names):
            raise ValueError(f"expected one distinct name per size, got {self.names} for {self.sizes}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"expected at least one factor, each of size 1 or more, got {self.sizes}")

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def factors(self, index: Tensor) -> Tensor:
        """Factors (n, F) int64 of the combinations `index` (n,) int64.

        Raises:
            ValueError: an index is out of range.
        """
        _check_range("index", index, torch.tensor(len(self), device=index.device))
        columns = []
        for size in reversed(self.sizes):
            columns.append(index % size)
            index = index // size
        return torch.stack(columns[::-1], dim=-1)

    def index(self, factors: Tensor) -> Tensor:
        """Index (n,) int64 of each combination; the inverse of `factors` (n, F) int64.

        Raises:
            ValueError: the shape does not fit or a factor is out of range.
        """
        if factors.ndim != 2 or factors.shape[1] != len(self.sizes):
            raise ValueError(f"expected factors of shape (n, {len(self.sizes)}), got {tuple(factors.shape)}")
        _check_range("factors", factors, torch.tensor(self.sizes, device=factors.device))
        index = torch.zeros(len(factors), dtype=torch.int64, device=factors.device)
        for column, size in zip(factors.unbind(dim=1), self.sizes, strict=True):
            index = index * size + column
        return index


@dataclass(frozen=True)
class FactorLabels:
    """Factors of single images, which need not be all combinations.

    Attributes:
        space: names of the factors and of their values.
        numbers: value of each factor of each image, shape (n, F) int64.
    """

    space: FactorSpace
    numbers: np.ndarray

    @property
    def sha256(self) -> str:
        """Hash of names, values and numbers."""
        digest = hashlib.sha256(f"{self.space.names}{self.space.values}".encode("utf-8", "surrogateescape"))
        digest.update(self.numbers.tobytes())
        return digest.hexdigest()


def _check_range(name: str, values: Tensor, limit: Tensor) -> None:
    if values.dtype != torch.int64:
        raise ValueError(f"expected {name} of int64, got {values.dtype}")
    if bool(((values < 0) | (values >= limit)).any()):
        raise ValueError(
            f"expected {name} from 0 to below {limit.tolist()}, got {values.min()} to {values.max()}"
        )
