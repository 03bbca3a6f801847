"""Draw rows: disjoint samples, folds, and batches in which one factor is fixed.

The published protocol draws from the full factor grid; these functions draw from a fixed array of encoded
images.
"""

from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import KFold

from disdiff.metrics._inputs import check_enough
from ldm.errors import UserError


def split_rows(random: np.random.RandomState, num_rows: int, *sizes: int) -> list[np.ndarray]:
    """Draw disjoint sets of row indices: consecutive pieces of one `random.permutation(num_rows)`.

    Deviation: the released code draws indices of the full data set with replacement. Here the array may be
    only slightly larger than the sample, and a test row must not be a training row.
    """
    check_enough(num_rows, sum(sizes))
    return np.split(random.permutation(num_rows)[: sum(sizes)], np.cumsum(sizes)[:-1])


def repeat_rows(num_rows: int, seed: int, *sizes: int) -> np.ndarray:
    """Rows with repeats that make an array of few images long enough for `split_rows`.

    The images are split at random in proportion to `sizes`. Each set that `split_rows` draws from the long
    array, with the same seed, is filled with replacement from its own part: no row of a test set is an image
    of the training set.

    Args:
        num_rows: number of images, at least one per set and fewer than all sizes together.
        seed: seed of the metrics.
        sizes: sizes of the sets.

    Returns:
        Rows of the images, shape (sum(sizes),).
    """
    random = np.random.RandomState(seed)
    places = split_rows(random, sum(sizes), *sizes)  # the first draw of every metric with a test set
    ends = np.cumsum(sizes) * num_rows // sum(sizes)
    rows = np.empty(sum(sizes), dtype=np.int64)
    for place, part in zip(places, np.split(random.permutation(num_rows), ends[:-1]), strict=True):
        rows[place] = part[random.randint(len(part), size=len(place))]
    return rows


def split_folds(
    num_rows: int, num_available: int, num_folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split the first `num_rows` of `num_available` rows into folds of (training rows, held-out rows).

    Raises:
        UserError: there are fewer than `num_rows` rows, or fewer rows than folds.
    """
    check_enough(num_available, num_rows)
    if num_rows < num_folds:
        raise UserError(f"{num_rows} rows cannot make {num_folds} folds: take at least {num_folds}")
    return KFold(num_folds, shuffle=True, random_state=seed).split(np.empty(num_rows))


class RowsByValue:
    """Index of the rows with each factor value, to draw batches in which one factor is fixed.

    The exact protocol fixes one factor and draws the others independently from the full data set. Here rows
    are drawn, with replacement, among the encoded images with the fixed value. If the array is the whole
    factor grid, the distribution is the same.
    """

    def __init__(self, factors: np.ndarray) -> None:
        """Index `factors`, shape (n, F), numbered from 0."""
        self.factors = factors
        self.order = np.argsort(factors, axis=0, kind="stable")
        self.counts = [np.bincount(column) for column in factors.T]
        self.starts = [np.cumsum(count) - count for count in self.counts]

    def draw(self, which: np.ndarray, anchors: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Convert uniform numbers to rows that have the same value of one factor as an anchor row.

        Args:
            which: index of the fixed factor of each batch, shape (b,).
            anchors: rows that give the fixed value, shape (b,) (one per batch) or (b, m) (one per draw).
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
