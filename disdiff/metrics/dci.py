"""DCI: disentanglement, completeness and informativeness of an importance matrix R (units x factors).

One classifier per factor predicts its value from all units; `R[k, f]` is the importance of unit k. With
rows normalised, `p_kf = R_kf / sum_f R_kf`, a unit's disentanglement is `1 - H_F(p_k)` (entropy to base F: 1
for a single factor, 0 for equal importances), and the score is the mean weighted by the unit's share of all
importance. Completeness is the same for columns, with base N. Informativeness is the accuracy on held-out
rows. Eastwood and Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations",
ICLR 2018.

The scores depend on the estimator, which defines "importance", so its name is part of the result.
`gradient_boosting` is the published one. Random draws: one permutation of the rows; every classifier gets the
seed.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import joblib
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier

from disdiff.metrics._classifiers import find_parallel, fit_boosting
from disdiff.metrics._inputs import Progress, Result, check_inputs
from disdiff.metrics._sampling import split_rows
from ldm.errors import UserError, check_option

ROUNDS = {"gradient_boosting": 100, "gradient_boosting_20_rounds": 20}
ESTIMATORS = {
    "gradient_boosting": "sklearn.GradientBoostingClassifier, defaults",
    "gradient_boosting_20_rounds": "sklearn.GradientBoostingClassifier, n_estimators=20",
    "random_forest": "sklearn.RandomForestClassifier, defaults",
}
EPSILON = 1e-11


def compute_dci(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    seed: int,
    num_train: int = 10_000,
    num_test: int = 5_000,
    estimator: str = "gradient_boosting",
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Compute DCI.

    Args:
        codes: scalar units, shape (n, N).
        factors: integer labels, shape (n, F).
        seed: seed of the choice of rows and of all classifiers.
        num_train: number of rows for fitting the classifiers.
        num_test: number of other rows for evaluating them.
        estimator: a name in `ESTIMATORS`.
        num_workers: number of threads, which does not affect the result; None for the number of usable cores.
        progress: called with the share of the work done, in (0, 1].

    Returns:
        `disentanglement` (the published number), `completeness`, `informativeness` and
        `informativeness_train`, all in [0, 1]; `importance`, shape (N, F), each column summing to 1 (or 0);
        `accuracy` per factor.

    Raises:
        UserError: bad arrays, fewer rows than `num_train + num_test`, an unknown estimator, or a factor
            that has a single value among the training rows.
    """
    check_option("estimator", estimator, ESTIMATORS)
    codes, factors = check_inputs(codes, factors, num_train + num_test)
    train, test = split_rows(np.random.RandomState(seed), len(codes), num_train, num_test)
    constant = np.flatnonzero(np.ptp(factors[train], axis=0) == 0).tolist()
    if constant:
        raise UserError(
            f"factors have a single value in column(s) {constant} of the {num_train} training rows: use more"
        )
    fitted = _fit_factors(codes, factors, train, test, estimator, seed, num_workers, progress)
    importance = np.stack([importance for importance, _, _ in fitted], axis=1)
    train_accuracy, test_accuracy = ([float(scores[place]) for scores in fitted] for place in (1, 2))
    return {
        "disentanglement": compute_disentanglement(importance),
        "completeness": compute_completeness(importance),
        "informativeness": float(np.mean(test_accuracy)),
        "informativeness_train": float(np.mean(train_accuracy)),
        "importance": importance.tolist(),
        "accuracy": test_accuracy,
        "estimator": estimator,
        "settings": {"model": ESTIMATORS[estimator]},
        "sizes": {"train": num_train, "test": num_test},
        "seed": seed,
    }


def compute_disentanglement(importance: np.ndarray) -> float:
    """Disentanglement in [0, 1] of importances >= 0, shape (N, F); 1 by definition if F is 1."""
    return _weighted_concentration(np.asarray(importance, dtype=np.float64))


def compute_completeness(importance: np.ndarray) -> float:
    """Completeness in [0, 1] of importances >= 0, shape (N, F); 1 by definition if N is 1."""
    return _weighted_concentration(np.asarray(importance, dtype=np.float64).T)


def _weighted_concentration(rows: np.ndarray) -> float:
    """Mean of `1 - H(row)` (entropy to the base of its length), weighted by the rows' share of the total."""
    total = rows.sum()
    if rows.shape[1] == 1:
        return 1.0
    weights = rows.sum(axis=1) / total if total > 0 else np.full(len(rows), 1 / len(rows))
    share = rows + EPSILON
    share /= share.sum(axis=1, keepdims=True)
    entropy = -(share * np.log(share)).sum(axis=1) / np.log(rows.shape[1])
    return float(np.clip(weights @ (1.0 - entropy), 0.0, 1.0))  # EPSILON and rounding can exceed it


def _fit_factors(
    codes: np.ndarray,
    factors: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    estimator: str,
    seed: int,
    num_workers: int | None,
    progress: Progress | None,
) -> list[tuple[np.ndarray, float, float]]:
    """Fit one classifier per factor; return (importance (N,), training accuracy, test accuracy) of each.

    All factors are boosted at the same time and share the workers, so no core waits for the largest factor.
    """
    num_factors = factors.shape[1]
    finished = itertools.count(1)
    if estimator in ROUNDS:
        find_parallel()  # once, before the threads start

    def report() -> None:
        """Count a round of any factor."""
        share = next(finished) / (num_factors * ROUNDS[estimator])
        if progress:
            progress(share)

    with (
        ThreadPoolExecutor(num_workers or joblib.cpu_count()) as trees,
        ThreadPoolExecutor(num_factors) as drivers,
    ):

        def fit(factor: int) -> tuple[np.ndarray, float, float]:
            """Importances (N,) for one factor, and the accuracy on training and test rows."""
            labels = factors[:, factor]
            model = _fit_estimator(estimator, codes[train], labels[train], seed, trees, report)
            accuracy = [float(np.mean(model.predict(codes[rows]) == labels[rows])) for rows in (train, test)]
            return model.feature_importances_, *accuracy

        return list(drivers.map(fit, range(num_factors)))


def _fit_estimator(
    name: str, codes: np.ndarray, labels: np.ndarray, seed: int, trees: Executor, on_round: Callable[[], None]
) -> ClassifierMixin:
    """Fit one factor's classifier; `on_round` is called after each round of boosting."""
    if name == "random_forest":
        return RandomForestClassifier(random_state=seed).fit(codes, labels)
    return fit_boosting(codes, labels, num_rounds=ROUNDS[name], seed=seed, executor=trees, on_round=on_round)
