"""Factor labels of the pictures in a folder, from a CSV file: people bring their own factors.

The file has a header: the file name, then one column per factor. Values are numbers, which keep their order,
or names of categories, which are sorted. Each column's values are numbered from 0; which value has which
number is in `FactorSpace.values`. The pictures need not be all combinations of values.
"""

import logging
import re
from pathlib import Path

import numpy as np

from ldm.data.factor_space import FactorLabels, FactorSpace
from ldm.data.image_folder import FolderStore, check_names, match_attributes, read_table
from ldm.data.pictures import name_some
from ldm.errors import UserError

log = logging.getLogger(__name__)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
FACTORS = "factors.csv"  # read if it is in the folder


def read_factors(path: str | Path, store: FolderStore, skip: bool) -> FactorLabels:
    """Read the factors of every picture of a store, in its order, from a CSV file.

    With `skip`, rows without a picture are left out, and pictures without a row are removed from the store.

    Raises:
        UserError: the file cannot be read, has no header, a name twice, a row of another length or an empty
            value; a row has no picture or a picture has no row (unless `skip`); or a column has another value
            for every picture.
    """
    names, rows = read_table(path, "factor")
    check_names(path, "factor", names, [name for name, _ in rows])
    for name, cells in rows:
        if len(cells) != len(names) or "" in cells:
            raise UserError(f"{path}: the row of {name} needs {len(names)} values; fill it in")
    texts = match_attributes(path, store, {name: np.array(cells) for name, cells in rows}, skip)
    columns = [number_values(column) for column in texts.T]
    values = tuple(found for found, _ in columns)
    own = [name for name, found in zip(names, values, strict=True) if len(found) == len(texts) > 2]
    if own:
        raise UserError(
            f"{path}: {name_some(own)} has another value for every picture, so it is no factor; "
            "remove the column"
        )
    for name, found in zip(names, values, strict=True):
        numbers = [text for text in found if read_number(text) is not None]
        if 0 < len(numbers) < len(found):
            odd = name_some([text for text in found if text not in numbers])
            log.info(f"note: {path}: values of {name!r} are taken for names, because {odd} is no number")
    space = FactorSpace(tuple(names), tuple(map(len, values)), values)
    return FactorLabels(space, np.stack([numbers for _, numbers in columns], axis=1))


def number_values(texts: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Number the values (n,) of a factor: numbers by size, other texts in alphabetical order.

    Returns:
        The values in order, and the number of each entry, shape (n,) int64.
    """
    found, numbers = np.unique(texts, return_inverse=True)
    amounts = [read_number(text) for text in found.tolist()]
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(found):
        return tuple(found.tolist()), numbers.astype(np.int64)
    by_size, order = np.unique(known, return_inverse=True)  # 1, +1 and 1.0 are one value
    names = (str(int(amount)) if amount.is_integer() else str(amount) for amount in by_size.tolist())
    return tuple(names), order[numbers].astype(np.int64)


def read_number(text: str) -> float | None:
    """The number that a text is, such as -3, 0.25 or 1e-4; None if it is none."""
    return float(text) if NUMBER.fullmatch(text) else None
