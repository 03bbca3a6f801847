"""Conversion and range checks of numbers that a user gives (Python, numpy or PyTorch scalars, or text)."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeGuard

import numpy as np
import torch

from ldm.errors import UserError

SHOWN = 60  # characters of a value that an error message shows
LARGEST = 10**12  # largest whole number accepted: far above any size or budget, and within 64 bits


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers.

    Attributes:
        whole: whether only whole numbers are in it.
        least, most: the lower and the upper limit.
        open_least, open_most: whether the lower (upper) limit itself is excluded.
    """

    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, value: Any) -> bool:
        """Whether `value`, of any type, is a number in the interval."""
        number = _plain(value, self.whole)
        if number is None or not math.isfinite(number):
            return False
        return self._is_above(number) and self._is_below(number)

    def check(self, name: str, value: Any) -> int | float:
        """Return `value` as an int or a float.

        Raises:
            UserError: the value is not in the interval; the message contains `name`.
        """
        if not self.holds(value):
            raise UserError(f"{name}={show(value)} is out of range; it must be {self.explain(value)}")
        return _plain(value, self.whole)

    def explain(self, value: Any) -> str:
        """The limits in words, such as `at least 1 and at most 8`; one that `value` breaks comes first."""
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
        """Parse a number from text; UserError if the text is not a number, or the number is out of range."""
        try:
            number = int(text) if self.whole else float(text)
        except ValueError:
            raise UserError(f"{text!r} is not a {'whole number' if self.whole else 'number'}") from None
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
FRACTION = Range(least=0, most=1)
FRACTION_BELOW_ONE = Range(least=0, most=1, open_most=True)
WHOLE = Range(whole=True, least=-LARGEST, most=LARGEST)
COUNT_OR_ZERO = Range(whole=True, least=0, most=LARGEST)
COUNT = Range(whole=True, least=1, most=LARGEST)
SEVERAL = Range(whole=True, least=2, most=LARGEST)
SEED = Range(whole=True, least=0, most=2**32 - 1)  # numpy's limits; PyTorch accepts larger seeds


def show(value: Any) -> str:
    """The value as one short line for an error message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def is_whole(value: Any) -> TypeGuard[SupportsIndex]:
    """Whether `value` is a whole number of any type; True and False are not."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not _is_truth(value)


def as_whole(value: Any, name: str, least: float = -math.inf) -> int:
    """Convert a whole number of any type to int.

    Raises:
        UserError: the value is not a whole number, or is less than `least`.
    """
    return int(Range(whole=True, least=least).check(name, value))


def as_numbers(values: Any, name: str) -> list[float]:
    """Convert one number or several to a list of floats.

    Raises:
        UserError: `values` is empty, or one of the values is not a finite number.
    """
    one = not isinstance(values, Iterable) or isinstance(values, str) or getattr(values, "ndim", 1) == 0
    numbers = [FINITE.check(name, value) for value in ([values] if one else values)]
    if not numbers:
        raise UserError(f"{name} is empty; give at least one number")
    return numbers


def seeded(seed: int) -> torch.Generator:
    """Return a random generator on the CPU with this seed.

    Raises:
        UserError: the seed is not a whole number from 0 to 2^32 - 1.
    """
    return torch.Generator().manual_seed(SEED.check("seed", seed))


def _plain(value: Any, whole: bool) -> int | float | None:
    """Convert a number of any type to int (if `whole`) or float; None if it is not such a number."""
    if isinstance(value, str | bytes) or _is_truth(value):
        return None
    try:
        return operator.index(value) if whole else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) in (torch.bool, np.bool_)
