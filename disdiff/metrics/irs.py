"""Interventional robustness score (IRS): does a unit stay constant when all factors except its own change?

For unit k and factor f: the 99 % quantile of `|c_k - E[c_k | v_f]|` among the rows of each value of f,
averaged over the values and divided by the largest deviation `max |c_k - E c_k|`; one minus this is R[k,
f]. A unit's robustness is `max_f R[k, f]`, and the score is the mean over units weighted by their largest
deviation. Suter et al., "Robustly Disentangled Causal Mechanisms", 2019, arXiv:1811.00007 (with the largest
deviation instead of the quantile: `quantile=1`). As in disentanglement_lib, factors are divided into 20 bins
of equal width, which does not change factors of up to 20 values. Random draws: one permutation of the rows.
"""

import numpy as np

from disdiff.metrics._information import NUM_BINS, discretise
from disdiff.metrics._inputs import Result, check_inputs, check_variation, find_varying
from disdiff.metrics._sampling import split_rows


def compute_irs(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    seed: int,
    num_train: int = 10_000,
    quantile: float = 0.99,
    num_bins: int = NUM_BINS,
) -> Result:
    """Compute the interventional robustness score.

    Args:
        codes: scalar units, shape (n, N); units that are constant on the rows drawn, up to rounding, are left
            out.
        factors: integer labels, shape (n, F).
        seed: seed of the choice of rows.
        num_train: number of rows for the estimate.
        quantile: quantile of the deviations within a group, in (0, 1].
        num_bins: equal-width bins per factor.

    Returns:
        `score`, at most 1 (below 0 if deviations from the group means are larger than from the overall mean),
        `num_active`, `parents` (the best factor of each unit, None if constant) and `robustness`, shape (N,
        F) with zeros for constant units.

    Raises:
        UserError: bad arrays, fewer rows than `num_train`, or no unit varies on the rows drawn.
    """
    codes, factors = check_inputs(codes, factors, num_train)
    (rows,) = split_rows(np.random.RandomState(seed), len(codes), num_train)
    codes, groups = codes[rows], discretise(factors[rows].astype(np.float64), num_bins)
    largest = np.abs(codes - codes.mean(axis=0)).max(axis=0)
    check_variation(codes)
    active = find_varying(codes)
    robustness = np.zeros((codes.shape[1], factors.shape[1]))
    for factor in range(factors.shape[1]):
        deviation = _mean_deviation(codes[:, active], groups[:, factor], quantile)
        robustness[active, factor] = 1.0 - deviation / largest[active]
    score = np.average(robustness[active].max(axis=1), weights=largest[active])
    parents = [int(best) if on else None for best, on in zip(robustness.argmax(axis=1), active, strict=True)]
    return {
        "score": float(score),
        "num_active": int(active.sum()),
        "parents": parents,
        "robustness": robustness.tolist(),
        "estimator": "quantile of deviations",
        "settings": {"quantile": quantile, "num_bins": num_bins},
        "sizes": {"train": num_train},
        "seed": seed,
    }


def _mean_deviation(codes: np.ndarray, groups: np.ndarray, quantile: float) -> np.ndarray:
    """Quantile of each unit's deviation from its group mean, averaged over the groups (n,): shape (N,)."""
    members = [codes[groups == value] for value in np.unique(groups)]
    return np.mean([np.quantile(np.abs(m - m.mean(axis=0)), quantile, axis=0) for m in members], axis=0)
