"""Modularity (does a unit represent one factor only?) and explicitness (are factors linearly predictable?).

With I[k, f] the mutual information of unit k (20 equal-width bins) and factor f, and m_k the largest entry of
row k, `modularity = mean_k (1 - sum_{f != best} I[k, f]^2 / (m_k^2 (F - 1)))`; a unit without information
counts 0. Explicitness is the mean over factors and values of the AUROC of one-vs-rest logistic regression on
standardised units. Ridgeway and Mozer, "Learning Deep Disentangled Embeddings with the F-Statistic Loss",
2018, arXiv:1802.05312; estimators of disentanglement_lib (which does not rescale the AUROC to [0, 1]). Random
draws: one permutation of the rows.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from disdiff.metrics._auroc import compute_auroc
from disdiff.metrics._information import NUM_BINS, discretise, mutual_information_matrix
from disdiff.metrics._inputs import Result, check_inputs, standardise
from disdiff.metrics._sampling import split_rows


def compute_modularity(
    codes: np.ndarray, factors: np.ndarray, *, seed: int, num_train: int = 10_000, num_bins: int = NUM_BINS
) -> Result:
    """Compute modularity.

    Args:
        codes: scalar units, shape (n, N).
        factors: integer labels, shape (n, F). If F = 1, every unit with information on it counts 1.
        seed: seed of the choice of rows.
        num_train: number of rows for the estimate.
        num_bins: equal-width bins per unit.

    Returns:
        `score` in [0, 1] and `per_unit`, shape (N,).

    Raises:
        UserError: bad arrays, or fewer rows than `num_train`.
    """
    codes, factors = check_inputs(codes, factors, num_train)
    (rows,) = split_rows(np.random.RandomState(seed), len(codes), num_train)
    squared = mutual_information_matrix(discretise(codes[rows], num_bins), factors[rows]) ** 2
    best = squared.max(axis=1)
    others = squared.sum(axis=1) - best
    scale = np.where(best > 0, best, 1.0) * max(1, factors.shape[1] - 1)
    per_unit = np.where(best > 0, 1.0 - np.maximum(others, 0.0) / scale, 0.0)  # rounding of the difference
    return {
        "score": float(per_unit.mean()),
        "per_unit": per_unit.tolist(),
        "estimator": "equal-width histogram",
        "settings": {"num_bins": num_bins},
        "sizes": {"train": num_train},
        "seed": seed,
    }


def compute_explicitness(
    codes: np.ndarray, factors: np.ndarray, *, seed: int, num_train: int = 10_000, num_test: int = 5_000
) -> Result:
    """Compute explicitness.

    Args:
        codes: scalar units, shape (n, N); standardised by mean and deviation of the training rows.
        factors: integer labels, shape (n, F).
        seed: seed of the choice of rows.
        num_train: number of rows for fitting the classifiers.
        num_test: number of other rows for evaluating them; values that do not occur there are left out.

    Returns:
        `score` (test) and `score_train`, where 0.5 is chance and 1 is perfect, and the test score
        `per_factor`.

    Raises:
        UserError: bad arrays, or fewer rows than `num_train + num_test`.
    """
    codes, factors = check_inputs(codes, factors, num_train + num_test)
    train, test = split_rows(np.random.RandomState(seed), len(codes), num_train, num_test)
    codes = standardise(codes, codes[train])
    scores = np.array([_explicitness(codes, labels, train, test) for labels in factors.T])
    return {
        "score": float(scores[:, 1].mean()),
        "score_train": float(scores[:, 0].mean()),
        "per_factor": scores[:, 1].tolist(),
        "estimator": "sklearn.LogisticRegression, one against the rest",
        "settings": {"C": 1.0, "max_iter": 100},
        "sizes": {"train": num_train, "test": num_test},
        "seed": seed,
    }


def _explicitness(
    codes: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[float, float]:
    """Mean AUROC over the values of one factor, on the training rows and on the test rows."""
    if np.ptp(labels[train]) == 0:
        return 0.5, 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = OneVsRestClassifier(LogisticRegression(C=1.0, max_iter=100)).fit(codes[train], labels[train])
    scores = []
    for rows in (train, test):
        hits = labels[rows, None] == model.classes_
        probability = model.predict_proba(codes[rows])
        if len(model.classes_) == 2:
            hits, probability = hits[:, 1:], probability[:, 1:]
        occurs = hits.any(axis=0) & ~hits.all(axis=0)
        pairs = zip(probability.T[occurs], hits.T[occurs], strict=True)
        per_value = [compute_auroc(p[:, None], h[:, None]).item() for p, h in pairs]
        scores.append(float(np.mean(per_value)) if per_value else 0.5)
    return scores[0], scores[1]
