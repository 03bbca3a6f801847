"""Frechet inception distance: how far apart are two sets of images, seen through features?

Each set's features are summed up by a Gaussian with their mean m and unbiased covariance S = sum (x - m)
(x - m)^T / (n - 1), and the two Gaussians are compared by their squared Wasserstein-2 distance

    FID = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2).

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
arXiv:1706.08500. Float64 throughout, and the mathematics of torchmetrics, but for the last trace: with
S_1 = A A^T and S_2 = B B^T it is the sum of the singular values of A^T B. (Roots of eigenvalues of S_1 S_2
enlarge the rounding of those that are 0, which put equal sets at -1e-5.) A squared distance is not negative:
what rounding is left below 0 is cut off. FID is biased upwards for few images: only numbers of one sample
size compare.
"""

import numpy as np

from disdiff.metrics._inputs import Result
from ldm.errors import UserError


def compute_fid(features: np.ndarray, reference: np.ndarray, *, allow_few: bool = False) -> Result:
    """Compute the Frechet distance of two sets of features; it is a FID if they are Inception's.

    Args:
        features: of the images judged, shape (n, d).
        reference: of the data, shape (m, d).
        allow_few: accept d images or fewer, from 2 on, whose covariance has not full rank.

    Returns:
        `score`, its parts `mean_term` and `covariance_term`, none of them below 0, and `full_rank`, whether
        both sets hold more than d images.

    Raises:
        UserError: bad arrays, or too few rows.
    """
    features, reference = check_features(features, reference)
    dims, fewest = features.shape[1], min(len(features), len(reference))
    check_num_images(fewest, dims, allow_few=allow_few)
    gap = features.mean(axis=0) - reference.mean(axis=0)
    s_1, s_2 = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (features, reference))
    mean_term = float(gap @ gap)
    covariance_term = max(0.0, float(np.trace(s_1) + np.trace(s_2) - 2 * _trace_of_root(s_1, s_2)))
    return {
        "score": mean_term + covariance_term,
        "mean_term": mean_term,
        "covariance_term": covariance_term,
        "full_rank": fewest > dims,
        "estimator": "Frechet distance of Gaussians, unbiased covariances, float64",
        "settings": {},
        "sizes": {"images": len(features), "reference": len(reference), "dimensions": dims},
        "seed": None,
    }


def check_num_images(num_images: int, dims: int, *, allow_few: bool = False) -> None:
    """Refuse fewer images than a covariance of `dims` features needs.

    Raises:
        UserError: fewer than 2; or `dims` or fewer, unless `allow_few`.
    """
    if num_images < 2:
        raise UserError(
            f"features of {num_images} image(s) have no covariance: take 2 images at the very least"
        )
    if num_images <= dims and not allow_few:
        raise UserError(
            f"features of {num_images} images leave the covariance of their {dims} dimensions without full"
            f" rank: take at least {dims + 1} images, or allow few for a number that is no result"
        )


def check_features(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of features, (n, d) and (m, d), as float64.

    Raises:
        UserError: wrong shape or type, different widths, NaN or infinity.
    """
    checked = []
    for name, rows in (("features", features), ("reference features", reference)):
        rows = np.asarray(rows)
        if rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] == 0:
            raise UserError(
                f"{name} must be numbers of shape (n, d), but are {rows.dtype} of shape {rows.shape}:"
                " give one row per image"
            )
        if not np.isfinite(rows).all():
            raise UserError(f"{name} hold NaN or infinity: look at the images they come from")
        checked.append(rows.astype(np.float64))
    if checked[0].shape[1] != checked[1].shape[1]:
        widths = " and ".join(str(rows.shape[1]) for rows in checked)
        raise UserError(
            f"features and reference features have {widths} dimensions: use one extractor for both"
        )
    return checked[0], checked[1]


def _trace_of_root(s_1: np.ndarray, s_2: np.ndarray) -> float:
    """Trace of (S_1 S_2)^(1/2), both (d, d), positive semi-definite; eigenvalues below 0 are rounding."""
    roots = []
    for covariance in (s_1, s_2):
        values, vectors = np.linalg.eigh(covariance)
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))  # root root^T is the covariance
    return float(np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum())
