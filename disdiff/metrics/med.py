"""MED: DCI's scores computed from the mutual-information matrix, without classifiers.

`R[k, f] = I(c_k; v_f) / sum_k I(c_k; v_f)` (20 equal-width bins) replaces DCI's importances. Top-k MED keeps,
for each factor, the k most disentangled of the units with this factor as their largest entry, so codes of
different width can be compared. A factor that no unit represents has full weight: its column of noise is
normalised too. Cao et al., "An Empirical Study on Disentanglement of Negative-free Contrastive Learning",
2022, and the script of DisDiff's release (10,000 rows, k = 2). Random draws: one permutation of the rows.
"""

import numpy as np

from disdiff.metrics._information import NUM_BINS, discretise, mutual_information_matrix
from disdiff.metrics._inputs import Result, check_inputs
from disdiff.metrics._sampling import split_rows
from disdiff.metrics.dci import compute_completeness, compute_disentanglement


def compute_med(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    seed: int,
    num_train: int = 10_000,
    num_bins: int = NUM_BINS,
    top_k: int = 2,
) -> Result:
    """Compute MED and top-k MED.

    Args:
        codes: scalar units, shape (n, N).
        factors: integer labels, shape (n, F).
        seed: seed of the choice of rows.
        num_train: number of rows for the estimate.
        num_bins: equal-width bins per unit.
        top_k: number of units kept per factor.

    Returns:
        `disentanglement` (MED) and `completeness`; `top_disentanglement` and `top_completeness` of the kept
        units; the kept `top_units`; and `importance`, shape (N, F).

    Raises:
        UserError: bad arrays, or fewer rows than `num_train`.
    """
    codes, factors = check_inputs(codes, factors, num_train)
    (rows,) = split_rows(np.random.RandomState(seed), len(codes), num_train)
    information = mutual_information_matrix(discretise(codes[rows], num_bins), factors[rows])
    total = information.sum(axis=0)
    importance = information / np.where(total > 0, total, 1.0)
    kept = _most_disentangled(importance, top_k)
    return {
        "disentanglement": compute_disentanglement(importance),
        "completeness": compute_completeness(importance),
        "top_disentanglement": compute_disentanglement(importance[kept]),
        "top_completeness": compute_completeness(importance[kept]),
        "top_units": kept,
        "importance": importance.tolist(),
        "estimator": "equal-width histogram",
        "settings": {"num_bins": num_bins, "top_k": top_k},
        "sizes": {"train": num_train},
        "seed": seed,
    }


def _most_disentangled(importance: np.ndarray, top_k: int) -> list[int]:
    """Indices of the `top_k` most disentangled units of each factor, in ascending order."""
    score = np.array([compute_disentanglement(row[None]) for row in importance])
    favourite = importance.argmax(axis=1)
    order = np.argsort(-score, kind="stable")
    return sorted(int(unit) for f in np.unique(favourite) for unit in order[favourite[order] == f][:top_k])
