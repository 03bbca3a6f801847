"""Numbers as people hand them over: as plain Python numbers, and within their limits."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeGuard

import numpy as np
import torch

from ldm.errors import UserError

SHOWN = 60  # characters
LARGEST = 10**12  # of whole numbers: far beyond any size or budget, and within 64 bits


@dataclass(frozen=True)
class Range:
    """Which finite numbers may be given.

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

    def holds(self, value: Any) -> bool:
        """Whether a value of any type is such a number."""
        number = _plain(value, self.whole)
        if number is None or not math.isfinite(number):
            return False
        return self._is_above(number) and self._is_below(number)

    def check(self, name: str, value: Any) -> int | float:
        """The number, as Python's own.

        Raises:
            UserError: the value is none of these numbers; names what it was given for.
        """
        if not self.holds(value):
            raise UserError(f"{name}={show(value)} is out of range; it must be {self.explain(value)}")
        return _plain(value, self.whole)

    def explain(self, value: Any) -> str:
        """What is wanted instead of a value, the limit that it breaks first, such as `at least 1`."""
        number = _plain(value, self.whole)
        if number is None:
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

    def read(self, text: str) -> int | float:
        """The number that a text stands for.

        Raises:
            UserError: it stands for none, or for one out of range.
        """
        try:
            number = int(text) if self.whole else float(text)
        except ValueError:
            raise UserError(f"{text!r} is no {'whole number' if self.whole else 'number'}") from None
        if not self.holds(number):
            raise UserError(f"{text} is out of range; it must be {self.explain(number)}")
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


def show(value: Any) -> str:
    """A value as errors show it, on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def is_whole(value: Any) -> TypeGuard[SupportsIndex]:
    """Whether `value` is a whole number of any type; True and False are none."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not _is_truth(value)


def as_whole(value: Any, name: str, least: float = -math.inf) -> int:
    """A whole number of any type as int.

    Raises:
        UserError: it is none, or less than `least`.
    """
    return int(Range(whole=True, least=least).check(name, value))


def as_number(value: Any, name: str) -> float:
    """A finite number of any type as float.

    Raises:
        UserError: it is none.
    """
    return FINITE.check(name, value)


def as_numbers(values: Any, name: str) -> list[float]:
    """One number or several, as a list of floats.

    Raises:
        UserError: there are none, or one of them is no finite number.
    """
    one = not isinstance(values, Iterable) or isinstance(values, str) or getattr(values, "ndim", 1) == 0
    numbers = [as_number(value, name) for value in ([values] if one else values)]
    if not numbers:
        raise UserError(f"{name} is empty; give at least one number")
    return numbers


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU.

    Raises:
        UserError: the seed is no whole number from 0 to 2^32 - 1.
    """
    return torch.Generator().manual_seed(SEED.check("seed", seed))


def _plain(value: Any, whole: bool) -> int | float | None:
    """A number of any type as Python's own; None for what is no (whole) number."""
    if isinstance(value, str | bytes) or _is_truth(value):
        return None
    try:
        return operator.index(value) if whole else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) in (torch.bool, np.bool_)
