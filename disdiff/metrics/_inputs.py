"""Input checks of all metrics, and the reduction of vector units to scalars.

A vector unit (D numbers) is reduced to its first principal component over the *whole* array,
`s_k = (c_k - mean) v`, where `v` is the leading eigenvector of the unit's D x D covariance. The sign of an
eigenvector is arbitrary: its entry of largest magnitude is made positive.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ldm.errors import UserError, check_option

Result = dict[str, Any]
Progress = Callable[[float], None]
UNIT_MODES = ("pca1", "all")
ROUNDING = 1e-12  # a range below this share of a column's largest magnitude counts as float64 rounding


def check_codes(codes: np.ndarray, *, scalar: bool = False) -> np.ndarray:
    """Return `codes` (n, N) or, unless `scalar`, (n, N, D) as finite floats, some column of which varies.

    Raises:
        UserError: wrong shape or type, NaN or infinity, or every column constant.
    """
    codes = np.asarray(codes)
    if codes.dtype.kind not in "fiu":
        raise UserError(f"codes must be floating-point numbers, but their type is {codes.dtype}")
    if codes.ndim not in (2, 3) or 0 in codes.shape:
        raise UserError(f"codes must have shape (n, N) or (n, N, D), all positive, but have {codes.shape}")
    if scalar and codes.ndim == 3:
        raise UserError(
            f"codes of shape {codes.shape} have vector units but scalars are needed: use unit_scalars first"
        )
    if not np.isfinite(codes).all():
        bad = int(np.isnan(codes).any(axis=tuple(range(1, codes.ndim))).sum())
        raise UserError(
            f"codes contain NaN ({bad} rows) or infinity: encode again with a model whose loss is finite"
        )
    if not find_varying(codes).any():
        raise UserError("codes are constant in every unit, the encoder has collapsed: train it longer")
    return codes if codes.dtype.kind == "f" else codes.astype(np.float64)


def find_varying(columns: np.ndarray) -> np.ndarray:
    """Whether each column of `columns` (n, ...) varies by more than rounding, shape (...) bool.

    A column is constant if its range is at most `ROUNDING` times its largest magnitude, or at most four times
    the machine epsilon of its type if that is larger: 0.3 and 0.1 + 0.2 are the same value.
    """
    columns = np.asarray(columns)
    share = ROUNDING
    if columns.dtype.kind == "f":
        share = max(share, 4 * float(np.finfo(columns.dtype).eps))
    low, high = (part.astype(np.float64) for part in (columns.min(axis=0), columns.max(axis=0)))
    return high - low > share * np.maximum(np.abs(low), np.abs(high))


def check_variation(codes: np.ndarray) -> None:
    """Raise UserError if no unit of codes (n, N), the rows that a metric has drawn, varies."""
    if not find_varying(codes).any():
        raise UserError(f"codes are constant in every unit on the {len(codes)} rows drawn: draw more rows")


def check_factors(factors: np.ndarray, num_rows: int, name: str = "factors") -> np.ndarray:
    """Return `factors` as int64 with the values of each factor renumbered 0, 1, ... in their order.

    They are whole numbers of shape (num_rows, F), floats such as 0.0 and 1.0 included; `name` is for errors.

    Raises:
        UserError: wrong shape or length, not whole numbers, or a factor with a single value.
    """
    numbered = number_values(factors, num_rows, name)
    constant = np.flatnonzero(numbered.max(axis=0) == 0).tolist()
    if constant:
        raise UserError(f"{name} have a single value in column(s) {constant}: drop these columns")
    return numbered


def number_values(factors: np.ndarray, num_rows: int, name: str = "factors") -> np.ndarray:
    """Same as `check_factors`, but columns with a single value are accepted."""
    factors = np.asarray(factors)
    kind = factors.dtype.kind
    whole = kind in "iub" or (kind == "f" and (np.floor(factors) == factors).all())
    if not whole or not np.isfinite(factors).all():
        raise UserError(
            f"{name} must be integers, but their type is {factors.dtype}: number the values of each column"
        )
    if factors.ndim != 2 or factors.shape[1] == 0:
        raise UserError(
            f"{name} must have shape (n, columns), but have {factors.shape}: give a row per image"
        )
    if len(factors) != num_rows:
        raise UserError(
            f"codes have {num_rows} rows but {name} have {len(factors)}: both need one row per image"
        )
    numbered = [np.unique(column, return_inverse=True)[1] for column in factors.T]
    return np.stack(numbered, axis=1).astype(np.int64)


def check_attributes(attributes: np.ndarray, num_rows: int) -> np.ndarray:
    """Return binary `attributes` as int64, shape (n, A); UserError as `check_factors` and `check_binary`."""
    return check_factors(check_binary(attributes), num_rows, "attributes")


def check_binary(attributes: np.ndarray) -> np.ndarray:
    """Return `attributes`, of any shape and type, as int64; UserError for a value other than 0 and 1."""
    attributes = np.asarray(attributes)
    known = attributes.dtype.kind in "fiub"
    if not known or not np.isin(attributes, (0, 1)).all():
        held = f"contain {np.unique(attributes)[:5].tolist()}" if known else f"are {attributes.dtype}"
        raise UserError(f"attributes must be 0 or 1, but {held}: map -1 to 0, or use tad_binarised")
    return attributes.astype(np.int64)


def check_inputs(codes: np.ndarray, factors: np.ndarray, num_rows: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Check scalar codes (n, N) and their factors (n, F), with at least `num_rows` rows.

    Returns:
        Codes as float64, shape (n, N), and factors as int64 numbered from 0, shape (n, F).

    Raises:
        UserError: see `check_codes` and `check_factors`, or too few rows.
    """
    codes = check_codes(codes, scalar=True).astype(np.float64)
    factors = check_factors(factors, len(codes))
    check_enough(len(codes), num_rows)
    return codes, factors


def check_enough(num_rows: int, wanted: int) -> None:
    """Raise UserError if a metric has too few rows; it never draws fewer, as this would change its score."""
    if num_rows < wanted:
        raise UserError(
            f"codes have {num_rows} rows but {wanted} are needed: encode more images or draw fewer"
        )


def unit_scalars(codes: np.ndarray, mode: str = "pca1") -> np.ndarray:
    """Reduce units to scalar columns.

    Args:
        codes: scalar units (n, N), which are only converted to float64, or vector units (n, N, D).
        mode: "pca1" for one column per unit, fitted on all n rows (the published protocol); "all" for one
            column per dimension, unit after unit.

    Returns:
        float64 array of shape (n, N), or (n, N * D) for "all".
    """
    check_option("unit_mode", mode, UNIT_MODES)
    codes = check_codes(codes)
    if codes.ndim == 2:
        return codes.astype(np.float64)
    if mode == "all":
        return codes.reshape(len(codes), -1).astype(np.float64)
    return np.stack([_first_component(codes[:, k]) for k in range(codes.shape[1])], axis=1)


def _first_component(unit: np.ndarray) -> np.ndarray:
    """Project one unit (n, D) onto its first principal component, shape (n,); a constant unit gives zeros."""
    if not find_varying(unit).any():
        return np.zeros(len(unit))
    centred = unit.astype(np.float64)
    centred -= centred.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    return centred @ (direction * np.sign(direction[np.abs(direction).argmax()]))


def standardise(codes: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Standardise codes (n, N) by the moments of `reference` (m, N); a constant column is only shifted."""
    deviation = np.where(find_varying(reference), reference.std(axis=0), 1.0)
    return (codes - reference.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def top_two_gap(scores: np.ndarray) -> np.ndarray:
    """Largest minus second largest entry of each column of non-negative scores (N, F), shape (F,).

    With N = 1 the gap is the entry itself.
    """
    ranked = np.sort(np.vstack([np.zeros(scores.shape[1]), scores]), axis=0)
    return ranked[-1] - ranked[-2]
