"""Handling of undefined scores: they are left out of the results, with the reason.

The key `undefined` in the results maps the name of a missing score to the reason. It also lists label columns
with a single value, which no score counts.
"""

from collections.abc import Callable

import numpy as np

from disdiff.metrics._inputs import Result, check_factors
from ldm.errors import UserError

UNDEFINED = "undefined"  # key of the undefined scores and their reasons
PER_COLUMN = {  # results with an entry per label column: the axis, and the entry for a constant column
    **{key: (1, 0.0) for key in ("importance", "votes", "mutual_information", "nmi", "robustness")},
    **{key: (0, None) for key in ("gaps", "units", "entropy", "per_factor", "per_column")},
    **{"accuracy": (-1, None), "captured": (0, 0.0), "auroc": (0, 0.5)},
}


def collect_scores(
    metrics: dict[str, Callable[[], Result]], report: Callable[[str, float], None] = lambda name, share: None
) -> dict[str, Result]:
    """Compute each metric; if it is undefined, store the reason in `undefined`.

    Raises:
        UserError: all metrics are undefined.
    """
    scores: dict[str, Result] = {}
    undefined: Result = {}
    for name, compute in metrics.items():
        report(name, 0.0)
        try:
            scores[name] = compute()
        except UserError as error:
            undefined[name] = str(error)
        report(name, 1.0)
    if not scores:
        raise UserError(str(next(iter(undefined.values()))))
    return scores | ({UNDEFINED: undefined} if undefined else {})


def drop_constant(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Drop the constant columns of labels (n, F), numbered from 0.

    Returns:
        The other columns, and whether each column is kept, shape (F,).

    Raises:
        UserError: no column varies.
    """
    kept = labels.max(axis=0) > 0
    return check_factors(labels[:, kept] if kept.any() else labels, len(labels), name), kept


def restore_columns(scores: dict[str, Result], kept: np.ndarray, name: str) -> dict[str, Result]:
    """Convert results for the varying columns to results for all columns.

    Args:
        scores: scores of the columns that vary.
        kept: whether each column varies, shape (F,).
        name: what a column is called in `undefined`, such as "factor".
    """
    if kept.all():
        return scores
    places = np.flatnonzero(kept)
    restored = {metric: _restore(result, places, len(kept)) for metric, result in scores.items()}
    reasons = {f"{name} {i}": "it has a single value, so no score counts it" for i in np.flatnonzero(~kept)}
    return restored | {UNDEFINED: scores.get(UNDEFINED, {}) | reasons}


def _restore(result: Result, places: np.ndarray, num_columns: int) -> Result:
    """Expand one metric's result to `num_columns` columns, with the computed ones at `places`."""
    restored = dict(result)
    for key, (axis, fill) in PER_COLUMN.items():
        if isinstance(result.get(key), list) and "attributes" not in result:  # else no column axis
            columns = np.moveaxis(np.array(result[key], dtype=object), axis, 0)
            whole = np.full((num_columns, *columns.shape[1:]), fill, dtype=object)
            whole[places] = columns
            restored[key] = np.moveaxis(whole, 0, axis).tolist()
    if "parents" in result:
        restored["parents"] = [None if best is None else int(places[best]) for best in result["parents"]]
    if "attributes" in result:
        restored["attributes"] = [[int(places[factor]), value] for factor, value in result["attributes"]]
    return restored
