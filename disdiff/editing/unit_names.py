"""What units and data sets are called in pictures and reports.

A unit is named after the factors it carries, by its importance for each of them (DCI): how much of what a
classifier of that factor reads, it reads from this unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STRONG = 0.2  # importance from which a unit is said to carry a factor
WEAK = 0.05  # importance below which it is said to carry nothing
MAX_ROWS = 32  # units in one picture; systems whose every number is a unit have hundreds


@dataclass
class UnitNames:
    """Names of N units.

    Attributes:
        labels: short, such as `unit 3 · wall hue 0.91`.
        sentences: the same in words.
        order: units from the most to the least important; without scores, in their own order, or where they
            are too many for a picture from the most to the least varying.
        ranked_by: what decides that order, "importance" or "variance".
    """

    labels: list[str]
    sentences: list[str]
    order: list[int]
    ranked_by: str = "importance"

    @property
    def shown(self) -> list[int]:
        """The first units of `order`, as many as fit in a picture."""
        return self.order[:MAX_ROWS]

    @property
    def left_out(self) -> str:
        """Which units pictures show, in words; empty where they show all."""
        if len(self.order) <= MAX_ROWS:
            return ""
        return f"the {MAX_ROWS} of {len(self.order)} units of highest {self.ranked_by}"


def name_units(
    num_units: int,
    importance: np.ndarray | None,
    factor_names: list[str],
    variance: np.ndarray | None = None,
) -> UnitNames:
    """Name units.

    Args:
        num_units: N.
        importance: of units for factors, shape (N, F); without it units are called by their numbers alone.
        factor_names: F of them.
        variance: of each unit over the data, shape (N,); ranks units without importance that are too many.
    """
    if importance is None:
        order = list(range(num_units))
        if num_units > MAX_ROWS and variance is not None:
            order = np.argsort(-variance, kind="stable").tolist()
        return UnitNames(
            [f"unit {unit}" for unit in range(num_units)],
            [f"Unit {unit} has no name: there are no scores." for unit in range(num_units)],
            order,
            "variance",
        )
    importance = np.asarray(importance, dtype=float)
    carried = [list_carried(row, factor_names) for row in importance]
    labels = [
        f"unit {unit} · " + (", ".join(f"{name} {value:.2f}" for name, value in pairs) or "no factor")
        for unit, pairs in enumerate(carried)
    ]
    sentences = [describe_unit(unit, pairs) for unit, pairs in enumerate(carried)]
    return UnitNames(labels, sentences, np.argsort(-importance.sum(axis=1), kind="stable").tolist())


def name_scored_units(codes: Mapping[str, np.ndarray], scores: Mapping | None) -> UnitNames:
    """Names of a run's units from its `codes.npz` and the scores of one protocol; numbers without scores."""
    importance = None if not scores or "dci" not in scores else np.array(scores["dci"]["importance"])
    array = np.asarray(codes["codes"])
    variance = (
        array.var(axis=0, dtype=np.float64).reshape(array.shape[1], -1).sum(axis=1) if array.size else None
    )
    factor_names = [str(name) for name in codes.get("factor_names", [])]
    return name_units(array.shape[1], importance, factor_names, variance)


def list_carried(row: np.ndarray, factor_names: list[str]) -> list[tuple[str, float]]:
    """Factors that a unit of importances `row` (F,) carries, at most two, or the one it carries best."""
    best = [(factor_names[f], float(row[f])) for f in np.argsort(-row, kind="stable")[:2]]
    strong = [pair for pair in best if pair[1] >= STRONG]
    return strong or [pair for pair in best[:1] if pair[1] >= WEAK]


def describe_unit(unit: int, carried: list[tuple[str, float]]) -> str:
    """One sentence on what a unit carries."""
    if not carried:
        return f"Unit {unit} carries no factor."
    verb = "carries" if carried[0][1] >= STRONG else "has a little of"
    return (
        f"Unit {unit} {verb} {' and '.join(f'{name} (importance {value:.2f})' for name, value in carried)}."
    )


def name_data(name: str, procedural: bool) -> str:
    """A data set's name, saying whether it is our rendering."""
    return f"{name} (procedural)" if procedural else name
