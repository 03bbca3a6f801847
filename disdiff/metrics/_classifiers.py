"""Gradient boosting for DCI: the results of scikit-learn's public class, computed faster if possible.

`disdiff.metrics._boosting` is faster, but uses private parts of scikit-learn, which any version may change.
So it is tested on a few rows first. If it fails or its results differ from the public class, the public class
is used.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

log = logging.getLogger(__name__)
ROWS, ROUNDS = 60, 3  # size of the test
ROUNDING = 1e-12  # tolerance for importances of presorted trees, which sum in another order


def fit_boosting(
    codes: np.ndarray,
    labels: np.ndarray,
    *,
    num_rounds: int,
    seed: int,
    executor: Executor,
    on_round: Callable[[], None],
) -> GradientBoostingClassifier:
    """Fit `GradientBoostingClassifier(n_estimators=num_rounds, random_state=seed)` to codes (n, N).

    The labels (n,) are integers; `executor` grows the trees; `on_round` is called after each round.
    """
    parallel = find_parallel()
    if parallel:
        model = parallel(executor, n_estimators=num_rounds, random_state=seed, on_round=on_round)
        return model.fit(codes, labels)
    model = GradientBoostingClassifier(n_estimators=num_rounds, random_state=seed)
    return executor.submit(model.fit, codes, labels, monitor=lambda *_: on_round()).result()


@cache
def find_parallel() -> type[GradientBoostingClassifier] | None:
    """The faster class; None, with a log message, if its results differ from the public class."""
    try:
        from disdiff.metrics._boosting import ParallelGradientBoosting

        reason = find_difference(ParallelGradientBoosting)
    except Exception as error:  # private parts of another version of scikit-learn may raise anything
        reason = f"{type(error).__name__}: {error}"
    if not reason:
        return ParallelGradientBoosting
    log.warning("DCI uses scikit-learn's own gradient boosting, which is slower (%s)", reason)
    return None


def find_difference(parallel: Callable[..., Any]) -> str:
    """Compare the class with the public one on `ROWS` rows of two and of three classes.

    Trees are grown with presorted columns and without.

    Returns:
        A short description of the difference; "" if there is none.
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
