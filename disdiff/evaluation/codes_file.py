"""`codes.npz`: the codes of many images and their labels, as runs leave them and other code bases bring them.

codes (n, N) or (n, N, D), float        factors (n, F), int            attributes (n, A), 0 or 1
                                        factor_names (F,), text        attribute_names (A,), text

Only the arrays that are asked for are read, so that whatever else lies in the file does no harm. Arrays of
Python objects are pickles, which are never loaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.files import atomic_path

NAME = "codes.npz"
NAMES = {"factors": "factor_names", "attributes": "attribute_names"}  # of the columns of labels


def read_codes(path: str | Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays `wanted` of a file, as far as it has them.

    Names of columns that are stored as Python objects are left out; columns then go by their numbers.

    Raises:
        UserError: the file is missing or damaged, or a wanted array holds Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"cannot read codes from {path}: there is no such file; give a codes.npz")
    remedy = "save it again by numpy.savez, or delete it and run the main job again if it is a run's"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: _read(file, name) for name in wanted if name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise UserError(f"cannot read codes, {path} is damaged ({error}); {remedy}") from error
    arrays = {name: array for name, array in found.items() if array is not None}
    objects = [name for name in found if name not in arrays and name not in NAMES.values()]
    if objects:
        raise UserError(f"{path} is damaged: {objects[0]!r} holds Python objects, not numbers; {remedy}")
    return arrays


def read_labelled_codes(path: str | Path, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """`codes` and the first of the arrays `labels` that a file has, with the names of its columns, if any.

    Raises:
        UserError: see `read_codes`, or the file lacks them.
    """
    held = list_arrays(path)
    label = next((name for name in labels if name in held), None)
    if "codes" not in held or label is None:
        wanted = " or ".join(repr(name) for name in labels)
        raise UserError(f"{path} must hold the array 'codes' and an array {wanted}; not {sorted(held)}")
    return read_codes(path, ("codes", label, NAMES[label]))


def read_run_codes(folder: Path, *labels: str) -> dict[str, np.ndarray] | None:
    """`codes`, `factor_names` and the arrays `labels` of a run folder's file; None when it has no file.

    Raises:
        UserError: see `read_codes`, or there are no codes in it.
    """
    path = folder / NAME
    if not path.exists():
        return None
    arrays = read_codes(path, ("codes", "factor_names", *labels))
    if "codes" not in arrays:
        raise UserError(f"{path} is damaged: it holds no 'codes'; delete it and run the main job again")
    return arrays


def list_arrays(path: str | Path) -> list[str]:
    """Names of the arrays in a file.

    Raises:
        UserError: see `read_codes`.
    """
    read_codes(path, ())
    with np.load(path, allow_pickle=False) as file:
        return list(file.files)


def stack_codes(codes: Mapping[str, np.ndarray]) -> Tensor:
    """Codes of a `codes.npz` as a tensor of shape (n, N, D)."""
    array = torch.from_numpy(np.asarray(codes["codes"], dtype=np.float32))
    return array[..., None] if array.ndim == 2 else array


def save_codes(path: str | Path, arrays: dict[str, Any]) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def _read(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    """One array; None if it holds Python objects."""
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            return None
        raise
