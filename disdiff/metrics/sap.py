"""SAP score: is a factor predicted by one unit only?

`S[k, f]` is the test accuracy of a linear support vector machine that predicts factor f from unit k alone,
and `SAP = mean_f (S_(1)f - S_(2)f)`, the gap between the two best units. Kumar, Sattigeri and Balakrishnan,
"Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", ICLR 2018, section 3;
estimator and sizes of disentanglement_lib (C = 0.01, balanced classes). Random draws: one permutation of
the rows.

Deviation: the primal problem is solved, which needs no random numbers; the optimum is the same.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from disdiff.metrics._inputs import Result, check_inputs, top_two_gap
from disdiff.metrics._sampling import split_rows

SETTINGS = {"C": 0.01, "class_weight": "balanced", "dual": False}


def compute_sap(
    codes: np.ndarray, factors: np.ndarray, *, seed: int, num_train: int = 10_000, num_test: int = 5_000
) -> Result:
    """Compute the SAP score.

    Args:
        codes: scalar units, shape (n, N). If N = 1, the gap is the unit's accuracy.
        factors: integer labels, shape (n, F).
        seed: seed of the choice of rows.
        num_train: number of rows for fitting the support vector machines.
        num_test: number of other rows for evaluating them.

    Returns:
        `score` in [0, 1], `gaps` per factor and `accuracy`, shape (N, F).

    Raises:
        UserError: bad arrays, or fewer rows than `num_train + num_test`.
    """
    codes, factors = check_inputs(codes, factors, num_train + num_test)
    train, test = split_rows(np.random.RandomState(seed), len(codes), num_train, num_test)
    accuracy = np.array(
        [[_accuracy(unit[:, None], labels, train, test) for labels in factors.T] for unit in codes.T]
    )
    gaps = top_two_gap(accuracy)
    return {
        "score": float(gaps.mean()),
        "gaps": gaps.tolist(),
        "accuracy": accuracy.tolist(),
        "estimator": "sklearn.LinearSVC",
        "settings": dict(SETTINGS),
        "sizes": {"train": num_train, "test": num_test},
        "seed": seed,
    }


def _accuracy(unit: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Test accuracy of one unit (n, 1) for one factor (n,)."""
    if np.ptp(labels[train]) == 0:
        return float(np.mean(labels[test] == labels[train][0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LinearSVC(**SETTINGS).fit(unit[train], labels[train])
    return float(model.score(unit[test], labels[test]))
