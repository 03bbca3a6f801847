"""Read and write `codes.npz`, which holds the codes of images and their labels.

    codes              (n, N) or (n, N, D), float
    factors            (n, F), int
    factor_names       (F,), text
    attributes         (n, A), 0 or 1
    attribute_names    (A,), text

The file comes from a run or from another code base. Only the requested arrays are read; other content is
ignored. Arrays of Python objects are pickles and are never loaded.
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
# array of labels: array with the names of its columns
NAMES = {"factors": "factor_names", "attributes": "attribute_names"}


def read_codes(path: str | Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Read those of the arrays `wanted` that a file has.

    Column names that are stored as Python objects are left out; the columns are then numbered.

    Raises:
        UserError: the file is missing or damaged, or a requested array holds Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"cannot read codes from {path}, because there is no such file; give a codes.npz")
    remedy = (
        "save it again with numpy.savez, or, if it belongs to a run, delete it and run disdiff train again"
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: _read(file, name) for name in wanted if name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise UserError(f"cannot read codes, because {path} is damaged ({error}); {remedy}") from error
    arrays = {name: array for name, array in found.items() if array is not None}
    objects = [name for name in found if name not in arrays and name not in NAMES.values()]
    if objects:
        raise UserError(f"{path} is damaged: {objects[0]!r} holds Python objects, not numbers; {remedy}")
    return arrays


def read_labelled_codes(path: str | Path, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Read `codes` and the first of the arrays `labels` that a file has, with its column names if any.

    Raises:
        UserError: see `read_codes`; also if `codes` or all of `labels` are missing.
    """
    held = list_arrays(path)
    label = next((name for name in labels if name in held), None)
    if "codes" not in held or label is None:
        wanted = " or ".join(repr(name) for name in labels)
        raise UserError(
            f"{path} must hold the array 'codes' and an array {wanted}, but holds {sorted(held)}; data "
            "without labels have no such scores"
        )
    return read_codes(path, ("codes", label, NAMES[label]))


def read_run_codes(folder: Path, *labels: str) -> dict[str, np.ndarray] | None:
    """Read `codes`, `factor_names` and the arrays `labels` of a run folder; None without a codes.npz.

    Raises:
        UserError: see `read_codes`; also if the file has no codes.
    """
    path = folder / NAME
    if not path.exists():
        return None
    arrays = read_codes(path, ("codes", "factor_names", *labels))
    if "codes" not in arrays:
        raise UserError(f"{path} is damaged: it holds no 'codes'; delete it and run disdiff train again")
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
    """Read one array; None if it holds Python objects."""
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            return None
        raise
