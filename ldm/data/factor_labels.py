"""Factor labels of the pictures in a folder, from a CSV file: people bring their own factors.

The file has a header: the file name, then one column per factor. Values are integers, which keep their order,
or names of categories, which are sorted. Each column's values are numbered from 0; which value has which
number is in `FactorLabels.values`. The pictures need not be all combinations of values.
"""

import re
from pathlib import Path

import numpy as np

from ldm.data.factor_space import FactorLabels, FactorSpace
from ldm.data.image_folder import FolderStore, check_names, match_attributes, read_table
from ldm.data.pictures import name_some
from ldm.errors import UserError

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
    space = FactorSpace(tuple(names), tuple(map(len, values)))
    return FactorLabels(space, np.stack([numbers for _, numbers in columns], axis=1), values)


def number_values(texts: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Number the values (n,) of a factor: integers by size, other texts in alphabetical order.

    Returns:
        The values in order, and the number of each entry, shape (n,) int64.
    """
    whole = all(re.fullmatch(r"[+-]?\d+", text) for text in texts)
    found, numbers = np.unique(texts.astype(np.int64) if whole else texts, return_inverse=True)
    return tuple(map(str, found.tolist())), numbers.astype(np.int64)
