"""Judge a claim by the values of its runs: it holds, it does not hold, or it cannot be decided.

A difference counts if it is more than twice its standard error over seeds, with at least three seeds a side.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not decidable at this size"
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Arm:
    """One side of a trial: a configuration with overrides, run with every seed.

    Attributes:
        name: name in tables and, in lower case, of the runs.
        file: configuration file.
        overrides: overrides of the configuration.
        minutes: expected time of a run on one core, evaluation included, until one has finished.
    """

    name: str
    file: str
    overrides: tuple[str, ...] = ()
    minutes: float = 12.0


class Verdict(NamedTuple):
    """One of `HOLDS`, `FAILS` and `UNDECIDED`, the numbers behind it, and why it is not decided."""

    word: str
    outcome: str
    reason: str = ""


Results = Mapping[str, Sequence[Mapping[str, float]]]  # values of each seed's run, by arm
Judge = Callable[[Results], Verdict]


def numbers(results: Results, arm: Arm, row: str) -> list[float]:
    """The value `row` of each run of an arm that has it."""
    return [values[row] for values in results[arm.name] if row in values]


def describe(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds (dividing by n - 1), such as `0.48 ± 0.07`."""
    if not values:
        return "-"
    spread = f" ± {stdev(values):.3g}" if len(values) > 1 else ""
    return f"{mean(values):.3g}{spread}"


def higher(row: str, arm: Arm, than: Arm) -> Judge:
    """The claim that `arm` has the higher value `row`."""

    def judge(results: Results) -> Verdict:
        ours, theirs = numbers(results, arm, row), numbers(results, than, row)
        outcome = f"{row}: {arm.name} {describe(ours)}, {than.name} {describe(theirs)}"
        return decide(ours, theirs, outcome)

    return judge


def lower(row: str, arm: Arm, than: Arm) -> Judge:
    """The claim that `arm` has the lower value `row`."""
    opposite = higher(row, than, arm)

    def judge(results: Results) -> Verdict:
        outcome = f"{row}: {arm.name} {describe(numbers(results, arm, row))}"
        outcome += f", {than.name} {describe(numbers(results, than, row))}"
        return opposite(results)._replace(outcome=outcome)

    return judge


def not_lower(row: str, arm: Arm, than: Arm) -> Judge:
    """The claim that `arm` does as well in `row` or better: it fails if the value is lower."""
    strict = higher(row, arm, than)

    def judge(results: Results) -> Verdict:
        verdict = strict(results)
        alike = verdict.word == UNDECIDED and len(numbers(results, arm, row)) >= FEWEST_SEEDS
        return Verdict(HOLDS, verdict.outcome) if alike else verdict

    return judge


def below(row: str, arm: Arm, bound: float) -> Judge:
    """The claim that the value `row` of `arm` is below `bound`."""

    def judge(results: Results) -> Verdict:
        values = numbers(results, arm, row)
        return decide([bound] * len(values), values, f"{row}: {arm.name} {describe(values)}; bound {bound:g}")

    return judge


def first_of(rows: Sequence[str], arm: Arm) -> Judge:
    """The claim that the first of `rows` is the highest of them, within each run of `arm`."""

    def judge(results: Results) -> Verdict:
        columns = [numbers(results, arm, row) for row in rows]
        outcome = f"{arm.name}: " + ", ".join(
            f"{row} {describe(values)}" for row, values in zip(rows, columns, strict=True)
        )
        ahead = [one - max(rest) for one, *rest in zip(*columns, strict=False)]
        return decide(ahead, [0.0] * len(ahead), outcome)

    return judge


def decide(ours: Sequence[float], theirs: Sequence[float], outcome: str) -> Verdict:
    """Verdict on the claim that `ours` has the higher mean; one value for each seed."""
    seeds = min(len(ours), len(theirs))
    if seeds < FEWEST_SEEDS:
        return Verdict(UNDECIDED, outcome, f"{seeds} seeds where {FEWEST_SEEDS} are needed")
    error = math.sqrt(sum(stdev(values) ** 2 / len(values) for values in (ours, theirs)))
    gap = mean(ours) - mean(theirs)
    if abs(gap) <= 2 * error:
        return Verdict(UNDECIDED, outcome, "the difference is within twice its standard error")
    return Verdict(HOLDS if gap > 0 else FAILS, outcome)


def every(*judges: Judge) -> Judge:
    """A claim of several parts: it holds if all do, and fails if one does."""

    def judge(results: Results) -> Verdict:
        parts = [each(results) for each in judges]
        words = {part.word for part in parts}
        word = next((word for word in (FAILS, UNDECIDED) if word in words), HOLDS)
        reasons = dict.fromkeys(part.reason for part in parts if part.reason) if word == UNDECIDED else ()
        return Verdict(word, "; ".join(part.outcome for part in parts), "; ".join(reasons))

    return judge
