"""Names of units and data sets in pictures and reports.

A unit is named after the factors that it encodes, according to its DCI importance: the share of a factor
classifier's feature importance that falls on the unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

STRONG = 0.2  # from this importance on, a unit is said to encode a factor
WEAK = 0.05  # below this importance, a unit is said to encode no factor
MAX_ROWS = 32  # largest number of units in one picture; some systems have hundreds of units
IDLE = 0.05  # a unit with less than this share of the largest standard deviation over the data is unused


@dataclass
class UnitNames:
    """Names of N units.

    Attributes:
        labels: short names, such as `unit 3 · wall hue 0.91`.
        sentences: the same as sentences.
        order: units by decreasing importance. Without scores they keep their own order, or are sorted by
            decreasing variance if they do not all fit into a picture.
        ranked_by: criterion of the order, "importance" or "variance".
        of_factors: the units of each factor (`find_units_of`), by the factor's name; empty without scores.
        idle: units that hardly vary over the data; pictures leave them out.
    """

    labels: list[str]
    sentences: list[str]
    order: list[int]
    ranked_by: str = "importance"
    of_factors: dict[str, list[int]] = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)

    @property
    def used(self) -> list[int]:
        """The units of `order` that vary over the data."""
        return [unit for unit in self.order if unit not in self.idle]

    @property
    def shown(self) -> list[int]:
        """The first units in use, as many as fit into a picture."""
        return self.used[:MAX_ROWS]

    @property
    def left_out(self) -> str:
        """Which units pictures show, in words; empty if they show all units."""
        if len(self.used) > MAX_ROWS:
            return f"the {MAX_ROWS} of {len(self.order)} units with the highest {self.ranked_by}"
        if self.idle:
            return f"the {len(self.used)} of {len(self.order)} units that vary over the data"
        return ""


def name_units(
    num_units: int, importance: np.ndarray | None, factor_names: list[str], variance: np.ndarray | None = None
) -> UnitNames:
    """Name N units by their importance for the F factors, shape (N, F); without it, by their numbers.

    `variance` (N,) over the data tells which units are idle, and sorts units without importance that do not
    all fit into a picture.
    """
    spread = np.sqrt(np.ones(num_units) if variance is None else variance)
    idle = np.flatnonzero(spread < IDLE * spread.max(initial=0.0)).tolist()
    if importance is None:
        order = list(range(num_units))
        if num_units > MAX_ROWS and variance is not None:
            order = np.argsort(-variance, kind="stable").tolist()
        return UnitNames(
            [f"unit {unit}" for unit in range(num_units)],
            [f"Unit {unit} has no name, because there are no scores." for unit in range(num_units)],
            order,
            "variance",
            idle=idle,
        )
    importance = np.asarray(importance, dtype=float)
    carried = [list_carried(row, factor_names) for row in importance]
    labels = [
        f"unit {unit} · " + (", ".join(f"{name} {value:.2f}" for name, value in pairs) or "no factor")
        for unit, pairs in enumerate(carried)
    ]
    sentences = [describe_unit(unit, pairs) for unit, pairs in enumerate(carried)]
    order = np.argsort(-importance.sum(axis=1), kind="stable").tolist()
    of_factors = {name: find_units_of(importance, f) for f, name in enumerate(factor_names)}
    return UnitNames(labels, sentences, order, of_factors=of_factors, idle=idle)


def find_units_of(importance: np.ndarray, factor: int) -> list[int]:
    """The units that encode a factor, the strongest first, by importances (N, F).

    They encode it more than any other factor, be it weakly: a hue needs all of its units. If there are none,
    it is the unit with the highest importance.
    """
    column = np.asarray(importance, dtype=float)[:, factor]
    own = np.asarray(importance).argmax(axis=1) == factor
    order = np.argsort(-column, kind="stable").tolist()
    return [k for k in order if own[k] and column[k] >= WEAK] or order[:1]


def name_scored_units(codes: Mapping[str, np.ndarray], scores: Mapping | None) -> UnitNames:
    """Name a run's units from its `codes.npz` and the scores of one protocol; numbers without scores."""
    importance = None if not scores or "dci" not in scores else np.array(scores["dci"]["importance"])
    array = np.asarray(codes["codes"])
    variance = (
        array.var(axis=0, dtype=np.float64).reshape(array.shape[1], -1).sum(axis=1) if array.size else None
    )
    factor_names = [str(name) for name in codes.get("factor_names", [])]
    return name_units(array.shape[1], importance, factor_names, variance)


def name_numbers(units: list[int]) -> str:
    """The numbers of units, in words."""
    return f"unit{'s' * (len(units) > 1)} {', '.join(map(str, units))}"


def list_carried(row: np.ndarray, factor_names: list[str]) -> list[tuple[str, float]]:
    """The factors (at most two) that a unit with importances `row` (F,) encodes, or else its best factor."""
    best = [(factor_names[f], float(row[f])) for f in np.argsort(-row, kind="stable")[:2]]
    strong = [pair for pair in best if pair[1] >= STRONG]
    return strong or [pair for pair in best[:1] if pair[1] >= WEAK]


def describe_unit(unit: int, carried: list[tuple[str, float]]) -> str:
    """One sentence on what a unit encodes."""
    if not carried:
        return f"Unit {unit} encodes no factor."
    verb = "encodes" if carried[0][1] >= STRONG else "weakly encodes"
    return (
        f"Unit {unit} {verb} {' and '.join(f'{name} (importance {value:.2f})' for name, value in carried)}."
    )


def name_data(name: str, procedural: bool) -> str:
    """The name of a data set, marked if its images are procedural."""
    return f"{name} (procedural)" if procedural else name
