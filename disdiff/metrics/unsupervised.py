"""Unsupervised scores: how dependent are the units on each other? No factors are needed.

With S the covariance of the units and D its diagonal, Gaussian total correlation        0.5 (sum_k ln D_kk -
    ln det S), in nats, Gaussian Wasserstein correlation  2 tr S - 2 tr (D^1/2 S D^1/2)^1/2, also divided by
    tr S, mutual information                the mean of I(c_k; c_j) over pairs k != j, 20 equal-width bins, in
    nats; all are 0 for independent Gaussian units; negative values by rounding are set to 0. Definitions of
    disentanglement_lib (Locatello et al., 2019, arXiv:1811.12359). Random draws: one permutation of the rows.
"""

import numpy as np

from disdiff.metrics._information import NUM_BINS, discretise, mutual_information_matrix
from disdiff.metrics._inputs import Result, check_codes, check_enough, check_variation, find_varying
from disdiff.metrics._sampling import split_rows

SINGULAR = 1e-12


def compute_unsupervised(
    codes: np.ndarray, *, seed: int, num_train: int = 10_000, num_bins: int = NUM_BINS
) -> Result:
    """Compute the dependence of the units on each other; units that are constant up to rounding are left out.

    Args:
        codes: scalar units, shape (n, N).
        seed: seed of the choice of rows.
        num_train: number of rows for all estimates.
        num_bins: equal-width bins per unit.

    Returns:
        `gaussian_total_correlation` (None if it is infinite, because a unit is a linear function of the
        others), `gaussian_wasserstein_correlation`, `gaussian_wasserstein_correlation_norm`,
        `mutual_information`, `num_active`.

    Raises:
        UserError: bad codes, fewer rows than `num_train`, or no unit varies on the rows drawn.
    """
    codes = check_codes(codes, scalar=True).astype(np.float64)
    check_enough(len(codes), num_train)
    (rows,) = split_rows(np.random.RandomState(seed), len(codes), num_train)
    check_variation(codes[rows])
    codes = codes[rows][:, find_varying(codes[rows])]
    covariance = np.cov(codes, rowvar=False).reshape(codes.shape[1], -1)
    wasserstein = gaussian_wasserstein_correlation(covariance)
    information = mutual_information_matrix(*[discretise(codes, num_bins)] * 2)
    of_pairs = float(information.sum() - np.trace(information)) / max(1, information.size - len(information))
    return {
        "gaussian_total_correlation": gaussian_total_correlation(covariance),
        "gaussian_wasserstein_correlation": wasserstein,
        "gaussian_wasserstein_correlation_norm": wasserstein / float(np.trace(covariance)),
        "mutual_information": max(0.0, of_pairs),
        "num_active": codes.shape[1],
        "estimator": "covariance, equal-width histogram",
        "settings": {"num_bins": num_bins},
        "sizes": {"train": num_train},
        "seed": seed,
    }


def gaussian_total_correlation(covariance: np.ndarray) -> float | None:
    """Total correlation in nats of a Gaussian with this covariance, shape (N, N); None if it is singular."""
    scale = np.sqrt(np.diag(covariance))
    eigenvalues = np.linalg.eigvalsh(covariance / scale / scale[:, None])
    return None if eigenvalues[0] < SINGULAR else max(0.0, float(-0.5 * np.log(eigenvalues).sum()))


def gaussian_wasserstein_correlation(covariance: np.ndarray) -> float:
    """Squared Wasserstein-2 distance of a Gaussian to the product of its marginals; covariance (N, N)."""
    scale = np.sqrt(np.diag(covariance))
    eigenvalues = np.linalg.eigvalsh(covariance * scale * scale[:, None])
    return max(0.0, float(2 * np.trace(covariance) - 2 * np.sqrt(np.maximum(eigenvalues, 0.0)).sum()))
