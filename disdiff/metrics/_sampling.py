"""Drawing rows: disjoint samples, and batches in which one factor is fixed.

The published protocol draws from the full grid of factors; these functions draw from a fixed array of
encoded images.
"""

from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import KFold

from disdiff.metrics._inputs import check_enough
from ldm.errors import UserError


def split_rows(random: np.random.RandomState, num_rows: int, *sizes: int) -> list[np.ndarray]:
    """Draw disjoint sets of row indices: consecutive pieces of one `random.permutation(num_rows)`.

    Deviation: the released code draws indices of the full data set with replacement; here the array may be
    little larger than the sample, and a test row must not be a training row.
    """
    check_enough(num_rows, sum(sizes))
    return np.split(random.permutation(num_rows)[: sum(sizes)], np.cumsum(sizes)[:-1])


def split_folds(
    num_rows: int, num_available: int, num_folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split the first `num_rows` of `num_available` rows into folds: (training rows, held-out rows) of each.

    Raises:
        UserError: there are fewer rows than asked for, or fewer than folds.
    """
    check_enough(num_available, num_rows)
    if num_rows < num_folds:
        raise UserError(f"{num_rows} rows cannot make {num_folds} folds: take at least {num_folds}")
    return KFold(num_folds, shuffle=True, random_state=seed).split(np.empty(num_rows))


class RowsByValue:
    """Index of the rows that share a factor's value, to draw batches in which one factor is fixed.

    The exact protocol indexes the full data set: it fixes one factor and draws the others independently. On
    an array of encoded images the same is to draw among the rows that have this value. Rows are drawn with
    replacement; when the array is the whole factor grid the two are the same distribution.
    """

    def __init__(self, factors: np.ndarray) -> None:
        """Index `factors`, shape (n, F), numbered from 0."""
        self.factors = factors
        self.order = np.argsort(factors, axis=0, kind="stable")
        self.counts = [np.bincount(column) for column in factors.T]
        self.starts = [np.cumsum(count) - count for count in self.counts]

    def draw(self, which: np.ndarray, anchors: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Turn uniform numbers into rows that agree with their anchor in one factor.

        Args:
            which: index of the fixed factor of each batch, shape (b,).
            anchors: rows whose value is kept, shape (b,) (one per batch) or (b, m) (one per draw).
            uniform: numbers in [0, 1), shape (b, m).

        Returns:
            Row indices, shape (b, m).
        """
        rows = np.empty(uniform.shape, dtype=np.int64)
        anchors = anchors.reshape(len(anchors), -1)
        for factor in np.unique(which):
            batch = which == factor
            values = self.factors[anchors[batch], factor]
            offset = (uniform[batch] * self.counts[factor][values]).astype(np.int64)
            rows[batch] = self.order[self.starts[factor][values] + offset, factor]
        return rows
