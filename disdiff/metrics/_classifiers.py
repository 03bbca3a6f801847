"""Gradient boosting as DCI wants it: the numbers of scikit-learn's public class, faster where that is safe.

`disdiff.metrics._boosting` is faster. It uses private parts of scikit-learn, which any version may change, so
it is tried on a few rows first. Where it fails or gives anything else than the public class, the public class
does the work.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

log = logging.getLogger(__name__)
ROWS, ROUNDS = 60, 3  # of the trial
ROUNDING = 1e-12  # of importances, where presorted trees sum in another order


def fit_boosting(
    codes: np.ndarray,
    labels: np.ndarray,
    *,
    num_rounds: int,
    seed: int,
    executor: Executor,
    on_round: Callable[[], None],
) -> GradientBoostingClassifier:
    """Fit `GradientBoostingClassifier(n_estimators=num_rounds, random_state=seed)`.

    Args:
        codes: shape (n, N).
        labels: integers, shape (n,).
        num_rounds: of boosting.
        seed: of the classifier.
        executor: grows the trees.
        on_round: called after each round.
    """
    parallel = find_parallel()
    if parallel:
        model = parallel(executor, n_estimators=num_rounds, random_state=seed, on_round=on_round)
        return model.fit(codes, labels)
    model = GradientBoostingClassifier(n_estimators=num_rounds, random_state=seed)
    return executor.submit(model.fit, codes, labels, monitor=lambda *_: on_round()).result()


@cache
def find_parallel() -> type[GradientBoostingClassifier] | None:
    """The faster class, or None (and one line in the log) where it does not do what the public class does."""
    try:
        from disdiff.metrics._boosting import ParallelGradientBoosting

        reason = find_difference(ParallelGradientBoosting)
    except Exception as error:  # whatever the insides of another scikit-learn raise
        reason = f"{type(error).__name__}: {error}"
    if not reason:
        return ParallelGradientBoosting
    log.warning("DCI takes scikit-learn's own gradient boosting, which is slower (%s)", reason)
    return None


def find_difference(parallel: Callable[..., Any]) -> str:
    """In what the class differs from the public one on `ROWS` rows of two and three classes ("": nothing).

    Both ways to grow trees are tried: of columns that are sorted once, and not.
    """
    random = np.random.RandomState(0)
    codes = random.normal(size=(ROWS, 3)).astype(np.float32)
    place = codes[:, 0] + codes[:, 1] ** 2 + 0.3 * random.normal(size=ROWS)
    for num_classes in (2, 3):
        labels = np.digitize(place, np.quantile(place, np.arange(1, num_classes) / num_classes))
        public = GradientBoostingClassifier(n_estimators=ROUNDS, random_state=0).fit(codes, labels)
        for presort_from, tolerance in ((ROWS + 1, 0.0), (0, ROUNDING)):
            rounds: list[None] = []
            with ThreadPoolExecutor(2) as executor:
                ours = parallel(
                    executor,
                    n_estimators=ROUNDS,
                    on_round=lambda rounds=rounds: rounds.append(None),
                    presort_from=presort_from,
                ).fit(codes, labels)
            if not np.array_equal(ours.predict_proba(codes), public.predict_proba(codes)):
                return "other predictions"
            importances = ours.feature_importances_, public.feature_importances_
            if not np.allclose(*importances, rtol=0, atol=tolerance):
                return "other importances"
            if len(rounds) != ROUNDS:
                return "other rounds"
    return ""
