"""Plug-in entropy and mutual information of discrete columns, in nats.

`H(v) = -sum_v p(v) ln p(v)` and `I(c; v) = H(c) + H(v) - H(c, v)`, where p are empirical frequencies. A
continuous code is first divided into bins of equal width between its smallest and its largest value.
"""

import numpy as np

from disdiff.metrics._inputs import find_varying

NUM_BINS = 20


def discretise(codes: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """Divide each column of codes (n, N) into `num_bins` bins of equal width.

    Returns:
        int64 in [0, num_bins), shape (n, N). A column that is constant up to rounding (`find_varying`) is 0.
    """
    binned = np.zeros(codes.shape, dtype=np.int64)
    for index in np.flatnonzero(find_varying(codes)):
        column = codes[:, index]
        edges = np.histogram_bin_edges(column, num_bins)
        binned[:, index] = np.digitize(column, edges[1:-1])
    return binned


def compute_entropy(column: np.ndarray) -> float:
    """Entropy in nats of a column of non-negative integers, shape (n,)."""
    return _entropy_of_counts(np.bincount(column))


def compute_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information in nats of two columns of non-negative integers, shape (n,) each; never below 0."""
    joint = np.bincount(first * (second.max() + 1) + second)
    return max(0.0, compute_entropy(first) + compute_entropy(second) - _entropy_of_counts(joint))


def mutual_information_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mutual information of every column of `first` (n, N) with each of `second` (n, F), shape (N, F)."""
    return np.array([[compute_mutual_information(a, b) for b in second.T] for a in first.T])


def _entropy_of_counts(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(share * np.log(share)).sum()))
