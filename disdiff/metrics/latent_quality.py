"""Latent quality: the score of a linear probe on all dimensions of the code together.

The probe is a logistic regression per attribute, on dimensions that are standardised by the training fold and
evaluated on the held-out fold, with 5 folds. The score is the mean AUROC for binary attributes, otherwise the
mean accuracy. This is InfoDiffusion's protocol (first 10,000 rows, folds of seed 0).
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from disdiff.metrics._auroc import compute_auroc
from disdiff.metrics._inputs import Result, check_codes, check_factors, standardise, unit_scalars
from disdiff.metrics._sampling import split_folds

NUM_ROWS = 10_000
NUM_FOLDS = 5


def compute_latent_quality(
    codes: np.ndarray, labels: np.ndarray, *, seed: int = 0, mapping: str = "all", num_rows: int = NUM_ROWS
) -> Result:
    """Compute the linear probe's quality.

    Args:
        codes: dimensions (n, N) or vector units (n, N, D).
        labels: attributes in {0, 1}, shape (n, A), or multi-valued integer factors, shape (n, F).
        seed: seed of the folds; the published protocol uses 0.
        mapping: mapping of vector units to dimensions, "all" or "pca1" (see `unit_scalars`).
        num_rows: number of rows to use, from the first on.

    Returns:
        `auroc` (or `accuracy` if any column has more than two values), mean over columns and folds, its
        standard deviation over folds with the suffix `_std`, and `per_column`.

    Raises:
        UserError: bad arrays, fewer rows than `num_rows`, or fewer rows than folds.
    """
    codes = check_codes(codes)
    mapping = mapping if codes.ndim == 3 else "scalar"
    codes = unit_scalars(codes, mapping if codes.ndim == 3 else "all")
    labels = check_factors(labels, len(codes))
    measure = "auroc" if labels.max() == 1 else "accuracy"
    folds = split_folds(num_rows, len(codes), NUM_FOLDS, seed)
    scores = np.array([_probe(codes, labels, train, test, measure) for train, test in folds])
    return {
        measure: float(scores.mean()),
        f"{measure}_std": float(scores.mean(axis=1).std()),
        "per_column": scores.mean(axis=0).tolist(),
        "estimator": "sklearn.LogisticRegression",
        "settings": {"C": 1.0, "max_iter": 100, "num_folds": NUM_FOLDS},
        "sizes": {"rows": num_rows},
        "seed": seed,
        "width": codes.shape[1],
        "mapping": mapping,
    }


def _probe(
    codes: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, measure: str
) -> list[float]:
    """Scores of one fold, one per column; a column constant in the training fold gets chance level."""
    codes = standardise(codes, codes[train])
    scores = []
    for column in labels.T:
        if np.ptp(column[train]) == 0:
            scores.append(0.5 if measure == "auroc" else float(np.mean(column[test] == column[train][0])))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=1.0, max_iter=100).fit(codes[train], column[train])
        if measure == "auroc":
            scores.append(
                compute_auroc(model.decision_function(codes[test])[:, None], column[test][:, None]).item()
            )
        else:
            scores.append(float(model.score(codes[test], column[test])))
    return scores
