"""Frechet inception distance (FID) between the features of two sets of images.

The features of each set are modelled by a Gaussian with their mean m and unbiased covariance
S = sum (x - m) (x - m)^T / (n - 1). FID is the squared Wasserstein-2 distance of the two Gaussians,

    FID = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2).

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
arXiv:1706.08500. All numbers are float64. The definition is that of torchmetrics, but the last trace is
computed in another way: with S_1 = A A^T and S_2 = B B^T it is the sum of the singular values of A^T B.
(Roots of eigenvalues of S_1 S_2 amplify the rounding of zeros; equal sets then had an FID of -1e-5.) Negative
values by rounding are set to 0. FID is biased upwards for few images: compare only numbers with the same
sample size.
"""

import numpy as np

from disdiff.metrics._inputs import Result
from ldm.errors import UserError


def compute_fid(features: np.ndarray, reference: np.ndarray, *, allow_few: bool = False) -> Result:
    """Compute the Frechet distance of two sets of features; it is an FID if the features are Inception's.

    Args:
        features: features of the images to evaluate, shape (n, d).
        reference: features of the data, shape (m, d).
        allow_few: whether to accept 2 to d images, whose covariance does not have full rank.

    Returns:
        `score`, its parts `mean_term` and `covariance_term`, all at least 0, and `full_rank`, whether both
        sets have more than d images.

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
    """Raise UserError for fewer than 2 images, or for `dims` or fewer (no full rank) unless `allow_few`."""
    if num_images < 2:
        raise UserError(f"features of {num_images} image(s) have no covariance: use at least 2 images")
    if num_images <= dims and not allow_few:
        raise UserError(
            f"{num_images} images are too few for a full-rank covariance of {dims} features: use at least"
            f" {dims + 1} images, or allow few images (--allow-few) for a number that is not a result"
        )


def check_features(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of features, (n, d) and (m, d), as float64; UserError unless all are finite numbers."""
    checked = []
    for name, rows in (("features", features), ("reference features", reference)):
        rows = np.asarray(rows)
        if rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] == 0:
            raise UserError(
                f"{name} must be numbers of shape (n, d), but are {rows.dtype} of shape {rows.shape}:"
                " give one row per image"
            )
        if not np.isfinite(rows).all():
            raise UserError(f"{name} contain NaN or infinity: check the images")
        checked.append(rows.astype(np.float64))
    if checked[0].shape[1] != checked[1].shape[1]:
        widths = " and ".join(str(rows.shape[1]) for rows in checked)
        raise UserError(
            f"features and reference features have {widths} dimensions: use one extractor for both"
        )
    return checked[0], checked[1]


def _trace_of_root(s_1: np.ndarray, s_2: np.ndarray) -> float:
    """Trace of (S_1 S_2)^(1/2) for positive semi-definite (d, d); negative eigenvalues are set to 0."""
    roots = []
    for covariance in (s_1, s_2):
        values, vectors = np.linalg.eigh(covariance)
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))  # root root^T is the covariance
    return float(np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum())
