"""Mutual information gap (MIG): is a factor represented by one unit only?

`MIG = mean_f (I(c_(1); v_f) - I(c_(2); v_f)) / H(v_f)`, where c_(1) and c_(2) are the two units with the most
information on factor f. Chen et al., "Isolating Sources of Disentanglement in VAEs", 2018, arXiv:1802.04942,
section 4; estimated as in disentanglement_lib with 20 equal-width bins per unit. Random draws: one
permutation of the rows.
"""

import numpy as np

from disdiff.metrics._information import NUM_BINS, compute_entropy, discretise, mutual_information_matrix
from disdiff.metrics._inputs import Result, check_inputs, top_two_gap
from disdiff.metrics._sampling import split_rows


def compute_mig(
    codes: np.ndarray, factors: np.ndarray, *, seed: int, num_train: int = 10_000, num_bins: int = NUM_BINS
) -> Result:
    """Compute the mutual information gap.

    Args:
        codes: scalar units, shape (n, N). If N = 1, the gap is the unit's information.
        factors: integer labels, shape (n, F).
        seed: seed of the choice of rows.
        num_train: number of rows for the estimate.
        num_bins: equal-width bins per unit.

    Returns:
        `score` in [0, 1], `gaps` and `units` (the best unit) per factor, `mutual_information` in nats,
        shape (N, F), and `entropy` in nats, shape (F,).

    Raises:
        UserError: bad arrays, or fewer rows than `num_train`.
    """
    codes, factors = check_inputs(codes, factors, num_train)
    (rows,) = split_rows(np.random.RandomState(seed), len(codes), num_train)
    factors = factors[rows]
    information = mutual_information_matrix(discretise(codes[rows], num_bins), factors)
    entropy = np.array([compute_entropy(column) for column in factors.T])
    gaps = top_two_gap(information) / np.where(entropy > 0, entropy, 1.0)
    gaps = np.minimum(gaps, 1.0)  # rounding can exceed 1 slightly
    return {
        "score": float(gaps.mean()),
        "gaps": gaps.tolist(),
        "units": information.argmax(axis=0).tolist(),
        "mutual_information": information.tolist(),
        "entropy": entropy.tolist(),
        "estimator": "equal-width histogram",
        "settings": {"num_bins": num_bins},
        "sizes": {"train": num_train},
        "seed": seed,
    }
