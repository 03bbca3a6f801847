"""Numbers as people hand them over (Python's, numpy's, tensors of one number), as plain Python numbers."""

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ldm.errors import UserError

SHOWN = 60  # characters


def show(value: Any) -> str:
    """A value as errors show it, on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number of any type; True and False are none."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not _is_truth(value)


def as_whole(value: Any, name: str, least: int | None = None) -> int:
    """A whole number of any type as int.

    Raises:
        UserError: it is none, or less than `least`.
    """
    bound = "" if least is None else f" of {least} or more"
    if not is_whole(value) or (least is not None and operator.index(value) < least):
        raise UserError(f"{name}={show(value)} is out of range; give a whole number{bound}")
    return operator.index(value)


def as_number(value: Any, name: str) -> float:
    """A finite number of any type as float.

    Raises:
        UserError: it is none.
    """
    try:
        number = math.nan if isinstance(value, str | bytes) or _is_truth(value) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name}={show(value)} is no finite number; give one")
    return number


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
        UserError: the seed is no whole number, or too large.
    """
    try:
        return torch.Generator().manual_seed(as_whole(seed, "seed"))
    except (RuntimeError, ValueError, OverflowError) as error:
        raise UserError(f"seed={seed} is out of range; give one of at most 64 bits") from error


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) in (torch.bool, np.bool_)
