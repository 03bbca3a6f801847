"""Kernel inception distance (KID): the squared maximum mean discrepancy of two sets of features.

With the kernel k(x, y) = (x.y / d + 1)^3 and subsets x, y of s rows each, the unbiased estimate

    KID = (sum_{i != j} k(x_i, x_j) + sum_{i != j} k(y_i, y_j)) / (s (s - 1)) - 2 sum_{i, j} k(x_i, y_j) / s^2

is averaged over many subsets. Binkowski et al., "Demystifying MMD GANs", 2018, arXiv:1801.01401, section 4;
definition and defaults of torchmetrics. The estimate is unbiased: it may be below 0 for equal distributions,
and its expectation does not depend on the number of images. Random draws, subset after subset: s rows of the
reference, then s rows of the images to evaluate, each without replacement.
"""

import numpy as np

from disdiff.metrics._inputs import Result
from disdiff.metrics.fid import check_features
from ldm.errors import UserError

BELOW = " (below 0, as an unbiased estimate of a distance near 0 may be)"


def compute_kid(
    features: np.ndarray,
    reference: np.ndarray,
    *,
    seed: int,
    num_subsets: int = 100,
    subset_size: int = 1_000,
) -> Result:
    """Compute the kernel distance of two sets of features; it is a KID if the features are Inception's.

    Args:
        features: features of the images to evaluate, shape (n, d).
        reference: features of the data, shape (m, d).
        seed: seed of the subsets.
        num_subsets: number of subsets.
        subset_size: size s of a subset, at least 2.

    Returns:
        `score`, the mean over subsets, and `score_std`, their standard deviation. The score may be below 0
        for similar sets; then there is a `note`.

    Raises:
        UserError: bad arrays, or fewer rows than `subset_size`.
    """
    features, reference = check_features(features, reference)
    fewest = min(len(features), len(reference))
    if not 2 <= subset_size <= fewest or num_subsets < 1:
        raise UserError(
            f"features of {fewest} images cannot give {num_subsets} subset(s) of {subset_size}: use more"
            " images, or at least 1 subset of at least 2 images"
        )
    generator = np.random.RandomState(seed)
    distances = []
    for _ in range(num_subsets):
        y = reference[generator.permutation(len(reference))[:subset_size]]
        x = features[generator.permutation(len(features))[:subset_size]]
        distances.append(_squared_mmd(x, y))
    score = float(np.mean(distances))
    return {
        "score": score,
        **({"note": BELOW} if score < 0 else {}),
        "score_std": float(np.std(distances)),
        "estimator": "unbiased squared MMD, kernel (x.y / d + 1)^3, float64",
        "settings": {"num_subsets": num_subsets, "subset_size": subset_size},
        "sizes": {"images": len(features), "reference": len(reference), "dimensions": features.shape[1]},
        "seed": seed,
    }


def _squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate from x and y, both (s, d)."""
    size = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kernel of every pair, shape (len(x), len(y))."""
    return (x @ y.T / x.shape[1] + 1) ** 3
