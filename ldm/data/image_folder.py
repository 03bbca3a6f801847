"""Folders of pictures, nested as one likes, and attributes of theirs from a CSV file.

The CSV has a header: the file name, then one column per attribute. Names are relative to the folder; a bare
file name will do where it is the only one. Values are 0 and 1, or -1 and 1.
"""

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ldm.data.pictures import name_some
from ldm.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"}
ATTRIBUTES = "attributes.csv"  # is read when it lies in the folder
VALUES = {"0": 0, "1": 1, "-1": 0, "0.0": 0, "1.0": 1, "-1.0": 0}


class FolderShelf:
    """A `Shelf` of the picture files in a folder and the folders in it, sorted by path; hidden ones aside."""

    def __init__(self, root: str | Path) -> None:
        """List the pictures.

        Raises:
            UserError: the folder is missing or holds none.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root} is no folder; name one that holds pictures with data.root=FOLDER")
        found = sorted(_walk(str(self.root), ""))
        if not found:
            raise UserError(
                f"{root} holds no pictures ({', '.join(sorted(SUFFIXES))}); name another with data.root"
            )
        self.names, self.sizes = [name for name, _ in found], [size for _, size in found]

    def read(self, position: int) -> bytes:
        """Bytes of a picture."""
        return (self.root / self.names[position]).read_bytes()

    def keep(self, positions: Sequence[int]) -> None:
        """Forget all pictures but those at `positions`."""
        self.names = [self.names[position] for position in positions]
        self.sizes = [self.sizes[position] for position in positions]


def read_attributes(path: str | Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read an attribute file: names of the attributes, and values (A,) int64 in {0, 1} by picture.

    Raises:
        UserError: the file cannot be read, names a picture twice, or has a value that is neither 0 nor 1.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read the attributes {path}: {error}") from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise UserError(f"{path} needs a header (file,attribute,...) and a row per picture")
    header, *rows = rows
    return header[1:], check_attributes(path, header[1:], [(row[0], row[1:]) for row in rows])


def check_attributes(
    path: str | Path, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> dict[str, np.ndarray]:
    """Values (A,) int64 in {0, 1} by picture, of rows of texts.

    Raises:
        UserError: a name occurs twice, a row has another length, or a value is neither 0 nor 1.
    """
    for what, each in (("attribute", names), ("picture", [name for name, _ in rows])):
        twice = [name for name, count in Counter(each).items() if count > 1]
        if twice:
            raise UserError(f"{path} has the {what} {name_some(twice)} more than once; keep one of each")
    table = {}
    for name, values in rows:
        numbers = [VALUES.get(value.strip()) for value in values]
        if len(numbers) != len(names) or None in numbers:
            raise UserError(f"{path}: the row of {name} needs {len(names)} values, each 0 or 1")
        table[name] = np.array(numbers, np.int64)
    return table


def match_attributes(
    path: str | Path, shelf: FolderShelf, table: dict[str, np.ndarray], skip: bool
) -> np.ndarray:
    """Attributes of every picture of a shelf, in its order, shape (n, A) int64.

    Args:
        path: of the attributes, for messages.
        shelf: with `skip` it forgets pictures without a row.
        table: values by picture.
        skip: whether to ignore rows without picture, and pictures without row.

    Raises:
        UserError: a bare file name stands for several pictures; or, unless `skip`, a row has no picture or a
            picture no row.
    """
    places = defaultdict(list)
    for position, name in enumerate(shelf.names):
        for key in {name, Path(name).name}:
            places[key].append(position)
    rows, missing = {}, []
    for key, values in table.items():
        found = [i for i in places.get(key, []) if shelf.names[i] == key] or places.get(key, [])
        if len(found) > 1:
            several = name_some([shelf.names[position] for position in found])
            raise UserError(f"{path}: {key} stands for {len(found)} pictures ({several}); give their folders")
        if found and found[0] in rows:
            raise UserError(
                f"{path} has the picture {shelf.names[found[0]]} more than once; keep one of each"
            )
        if found:
            rows[found[0]] = values
        else:
            missing.append(key)
    bare = [name for position, name in enumerate(shelf.names) if position not in rows]
    remedy = "mend the file, or leave both out with data.corrupt=skip"
    if missing and not skip:
        raise UserError(f"{path} has {len(missing)} rows without a picture ({name_some(missing)}); {remedy}")
    if bare and not skip:
        raise UserError(f"{path} lacks rows for {len(bare)} pictures ({name_some(bare)}); {remedy}")
    if not rows:
        raise UserError(f"{path}: none of its rows is of a picture in {shelf.root}; check the names")
    kept = sorted(rows)
    shelf.keep(kept)
    return np.stack([rows[position] for position in kept])


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Relative paths and sizes of the pictures in a folder and those within it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
                yield prefix + entry.name, entry.stat().st_size
