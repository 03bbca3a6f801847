"""Scores that are not defined for the codes or labels at hand: left out, with the reason.

`undefined`, beside the scores, says why by the name of the score; so it does for a column of labels that has
a single value, which no score counts. All other scores are there.
"""

from collections.abc import Callable

import numpy as np

from disdiff.metrics._inputs import Result, check_factors
from ldm.errors import UserError

UNDEFINED = "undefined"  # key beside the scores: what is not defined, and why
PER_COLUMN = {  # result with an entry per column of labels: the axis, and the entry of a constant column
    **{key: (1, 0.0) for key in ("importance", "votes", "mutual_information", "nmi", "robustness")},
    **{key: (0, None) for key in ("gaps", "units", "entropy", "per_factor", "per_column")},
    **{"accuracy": (-1, None), "captured": (0, 0.0), "auroc": (0, 0.5)},
}


def collect_scores(
    metrics: dict[str, Callable[[], Result]], report: Callable[[str, float], None] = lambda name, share: None
) -> dict[str, Result]:
    """Compute each metric, or keep the reason why it is not defined in `undefined`.

    Raises:
        UserError: none is defined.
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
    """Labels (n, F), numbered from 0, without columns of a single value, and which columns are kept, (F,).

    Raises:
        UserError: no column varies.
    """
    kept = labels.max(axis=0) > 0
    return check_factors(labels[:, kept] if kept.any() else labels, len(labels), name), kept


def restore_columns(scores: dict[str, Result], kept: np.ndarray, name: str) -> dict[str, Result]:
    """Make results count columns as the labels do that constant columns were dropped from.

    Args:
        scores: of the columns that vary.
        kept: which these are, shape (F,).
        name: of one column, for `undefined`.
    """
    if kept.all():
        return scores
    places = np.flatnonzero(kept)
    restored = {metric: _restore(result, places, len(kept)) for metric, result in scores.items()}
    reasons = {f"{name} {i}": "it has a single value, so no score counts it" for i in np.flatnonzero(~kept)}
    return restored | {UNDEFINED: scores.get(UNDEFINED, {}) | reasons}


def _restore(result: Result, places: np.ndarray, num_columns: int) -> Result:
    """One metric's result with `num_columns` columns, the computed ones at `places`."""
    restored = dict(result)
    for key, (axis, fill) in PER_COLUMN.items():
        if isinstance(result.get(key), list) and "attributes" not in result:  # pairs carry their own numbers
            columns = np.moveaxis(np.array(result[key], dtype=object), axis, 0)
            whole = np.full((num_columns, *columns.shape[1:]), fill, dtype=object)
            whole[places] = columns
            restored[key] = np.moveaxis(whole, 0, axis).tolist()
    if "parents" in result:
        restored["parents"] = [None if best is None else int(places[best]) for best in result["parents"]]
    if "attributes" in result:
        restored["attributes"] = [[int(places[factor]), value] for factor, value in result["attributes"]]
    return restored
