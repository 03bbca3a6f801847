"""Judge a claim by the values of its runs: it holds, it does not hold, or it cannot be decided.

A difference counts if it is more than twice its standard error over seeds, with at least three seeds a side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not decidable at this size"
MARKS = {HOLDS: "yes", FAILS: "no", UNDECIDED: "open"}
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Arm:
    """One side of a trial: a configuration with overrides, run with every seed; or a model that ships.

    Attributes:
        name: name in tables and, in lower case, of the runs.
        file: configuration file, or the folder of a shipped model, whose seeds draw its test images.
        overrides: overrides of the configuration.
        minutes: expected time of a run on one core, evaluation included, until one has finished.
    """

    name: str
    file: str
    overrides: tuple[str, ...] = ()
    minutes: float = 4.0

    @property
    def ships(self) -> bool:
        """Whether the arm is a shipped model."""
        return not self.file.endswith(".yaml")


Results = Mapping[str, Sequence[Mapping[str, float]]]  # values of each seed's run, by arm


@dataclass(frozen=True)
class Check:
    """A comparison that has to come out for a claim to hold.

    Attributes:
        arm: the arm whose value is compared.
        row: name of the value.
        relation: `above`, `below` or `not below`.
        than: what it is compared with: the same value of another arm, another value of the same run, or a
            number.
    """

    arm: Arm
    row: str
    relation: str
    than: Arm | str | float

    def judge(self, results: Results) -> "Verdict":
        """The verdict on this comparison alone."""
        ours = numbers(results, self.arm, self.row)
        told = f"{self.row}: {self.arm.name} {describe(ours)}"
        if isinstance(self.than, Arm):
            theirs = numbers(results, self.than, self.row)
            told += f", {self.than.name} {describe(theirs)}"
        elif isinstance(self.than, str):
            theirs = numbers(results, self.arm, self.than)
            told = f"{self.row} {describe(ours)}, {self.than} {describe(theirs)}"
            ours = [a - b for a, b in zip(ours, theirs, strict=True)]  # a run's own difference
            theirs = [0.0] * len(ours)
        else:
            theirs = [self.than] * len(ours)
            told += f", bound {self.than:g}"
        higher, lower = (theirs, ours) if self.relation == "below" else (ours, theirs)
        word, reason = decide(higher, lower)
        if self.relation == "not below" and word == UNDECIDED and min(len(ours), len(theirs)) >= FEWEST_SEEDS:
            word, reason = HOLDS, ""
        return Verdict(word, f"{told} ({MARKS[word]})", reason)


class Verdict(NamedTuple):
    """One of `HOLDS`, `FAILS` and `UNDECIDED`, the numbers behind it, and why it is not decided."""

    word: str
    outcome: str
    reason: str = ""


def judge_all(checks: Sequence[Check], results: Results) -> Verdict:
    """The verdict on a claim: it holds if every check does, and fails if one does."""
    parts = [check.judge(results) for check in checks]
    words = {part.word for part in parts}
    word = next((word for word in (FAILS, UNDECIDED) if word in words), HOLDS)
    reasons = dict.fromkeys(part.reason for part in parts if part.reason) if word == UNDECIDED else ()
    return Verdict(word, "; ".join(part.outcome for part in parts), "; ".join(reasons))


def decide(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str]:
    """Verdict on `ours` having the higher mean, with the reason if it is undecided; one value per seed."""
    seeds = min(len(ours), len(theirs))
    if seeds < FEWEST_SEEDS:
        return UNDECIDED, f"there are too few seeds, {FEWEST_SEEDS} are needed"
    error = math.sqrt(sum(stdev(values) ** 2 / len(values) for values in (ours, theirs)))
    gap = mean(ours) - mean(theirs)
    if abs(gap) <= 2 * error:
        return UNDECIDED, "the difference is within twice its standard error"
    return (HOLDS if gap > 0 else FAILS), ""


def numbers(results: Results, arm: Arm, row: str) -> list[float]:
    """The value `row` of each run of an arm that has it."""
    return [values[row] for values in results[arm.name] if row in values]


def describe(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds (dividing by n - 1), such as `0.48 ± 0.07`."""
    if not values:
        return "-"
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.3g}{spread}"
