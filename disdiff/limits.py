"""The limits of numbers, in a configuration, on the command line and in calls, so that a slip is refused
before anything is computed.

Every number is finite. In a configuration whole numbers are at least 1 and others at least 0, but for the
exceptions below, by the last part of their key. What a value means together with others (sizes that must
divide each other, ranges of steps) is checked where it is used.
"""

import argparse
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ldm.errors import UserError

MAY_BE_ZERO = {
    *("num_workers", "num_pairs"),
    *("num_res_blocks", "attention_levels", "hidden", "harmonics", "gan_start"),
    *("warmup_steps", "kl_warmup_steps", "hold_steps", "capacity_steps", "t_min"),
}
MAY_NOT_BE_ZERO = {
    "learning_rate",
    "grad_clip",
    "clean_cap",
    "change_cap",
    "temperature",
    "code_noise",
    "std",
}
MAY_BE_NEGATIVE = {"zeta", "num_heads", "initial_logvar"}
BELOW_ONE = {"ema_decay", "betas", "dropout"}
LENGTHS = {"betas": 2, "mean": 3, "std": 3}  # of lists
LARGEST = 10**12  # of whole numbers: far beyond any size or budget, and within 64 bits


@dataclass(frozen=True)
class Range:
    """Which finite numbers may be given; called with a text of the command line, it reads one of them.

    Attributes:
        whole: only whole numbers.
        least, most: the smallest and the largest of them.
        open_least, open_most: these two themselves are none.
    """

    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, number: Any) -> bool:
        """Whether a value is such a number."""
        kind = Integral if self.whole else Real
        if not isinstance(number, kind) or isinstance(number, bool) or not math.isfinite(number):
            return False
        return self._is_above(number) and self._is_below(number)

    def check(self, name: str, number: Any) -> None:
        """Refuse any other value.

        Raises:
            UserError: naming what it was given for.
        """
        if not self.holds(number):
            raise UserError(f"{name}={number} is out of range; it must be {self.explain(number)}")

    def explain(self, number: Any) -> str:
        """What is wanted instead of a value, the limit that it breaks first, such as `at least 1`."""
        if not isinstance(number, Integral if self.whole else Real) or isinstance(number, bool):
            return "a whole number" if self.whole else "a number"
        limits = [
            (self._is_above(number), f"{'more than' if self.open_least else 'at least'} {self.least}"),
            (self._is_below(number), f"{'less than' if self.open_most else 'at most'} {self.most}"),
        ]
        bounds = (abs(self.least), abs(self.most))
        told = [
            (kept, text)
            for (kept, text), bound in zip(limits, bounds, strict=True)
            if bound < LARGEST or (bound == LARGEST and not kept)
        ]
        words = [text for _, text in sorted(told)]
        return " and ".join(words if words and not math.isinf(number) else ["finite", *words])

    def __call__(self, text: str) -> int | float:
        """Read a number, for `argparse`."""
        try:
            number = int(text) if self.whole else float(text)
        except ValueError:
            kind = "whole number" if self.whole else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind}") from None
        if not self.holds(number):
            raise argparse.ArgumentTypeError(f"{text} is out of range; it must be {self.explain(number)}")
        return number

    def _is_above(self, number: float) -> bool:
        return number > self.least if self.open_least else number >= self.least

    def _is_below(self, number: float) -> bool:
        return number < self.most if self.open_most else number <= self.most


FINITE = Range()
NOT_NEGATIVE = Range(least=0)
POSITIVE = Range(least=0, open_least=True)
SHARE = Range(least=0, most=1)
SHARE_BELOW_ONE = Range(least=0, most=1, open_most=True)
WHOLE = Range(whole=True, least=-LARGEST, most=LARGEST)
COUNT_OR_NONE = Range(whole=True, least=0, most=LARGEST)
COUNT = Range(whole=True, least=1, most=LARGEST)
SEVERAL = Range(whole=True, least=2, most=LARGEST)
SEED = Range(whole=True, least=0, most=2**32 - 1)  # what numpy takes; PyTorch takes more
OF_NAME = {
    "eta": SHARE,
    **dict.fromkeys(("seed", "stage_seed"), SEED),
    **dict.fromkeys(MAY_NOT_BE_ZERO, POSITIVE),
    **dict.fromkeys(BELOW_ONE, SHARE_BELOW_ONE),
}


def check_limits(tree: dict[str, Any], prefix: str = "") -> None:
    """Check every number of a complete configuration, as nested dictionaries.

    Raises:
        UserError: a number is outside its limits, or a list has another length than it must have.
    """
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            check_limits(value, f"{key}.")
        elif isinstance(value, list):
            if len(value) != LENGTHS.get(name, len(value)):
                raise UserError(f"{key}={value} must be {LENGTHS[name]} numbers")
            if name == "channel_mult" and not value:
                raise UserError(f"{key}={value} must have a number for each level, at least one")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                choose_range(name, number).check(key, number)
        if name == "num_heads" and value == 0:
            raise UserError(f"{key}=0 is out of range; give a number of heads, or minus their channels")


def choose_range(name: str, number: int | float) -> Range:
    """The limits of a number of the configuration, by the last part of its key and by its type."""
    if name in OF_NAME:
        return OF_NAME[name]
    if not isinstance(number, int):
        return FINITE if name in MAY_BE_NEGATIVE else NOT_NEGATIVE
    if name in MAY_BE_NEGATIVE:
        return WHOLE
    return COUNT_OR_NONE if name in MAY_BE_ZERO else COUNT
