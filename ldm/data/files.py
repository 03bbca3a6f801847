"""Find the files of a data set, with error messages for missing or wrong files."""

from collections.abc import Sequence
from pathlib import Path

from ldm.data.factor_space import FactorSpace
from ldm.errors import UserError


def find_first(root: str | Path, names: Sequence[str]) -> Path | None:
    """The first of the files `names` that exists in the folder `root`, or None."""
    return next((path for name in names if (path := Path(root) / name).is_file()), None)


def require(data: str, root: str | Path, names: Sequence[str]) -> Path:
    """The first of the files `names` that exists in the folder `root`; UserError if none exists."""
    path = find_first(root, names)
    if path is None:
        raise absent(data, root, " nor ".join(names))
    return path


def absent(data: str, root: str | Path, what: str) -> UserError:
    """The error for a data set whose files are missing."""
    return UserError(
        f"{root} has no {what}; `disdiff data {data}` explains how to get the data, and data.root=FOLDER "
        "sets their folder"
    )


def require_grid(path: Path, num_images: int, grids: Sequence[FactorSpace]) -> FactorSpace:
    """The factor grid whose number of combinations is `num_images`; UserError if no grid has this size."""
    for grid in grids:
        if len(grid) == num_images:
            return grid
    wanted = " or ".join(str(len(grid)) for grid in grids)
    raise UserError(f"{path} has {num_images} images, expected {wanted}: one per combination of factors")
