"""Folders of pictures (nested or not), and binary attributes of the pictures from a CSV file.

The CSV has a header: the file name, then one column per attribute. Names are relative to the folder; the file
name without its folder is enough if it is unique. Values are 0 and 1, or -1 and 1. Names are compared in one
Unicode form (NFC), as some systems write an accented letter as two characters.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ldm.data.arrays import Progress, silent
from ldm.data.contents import Contents, digest_texts
from ldm.data.folder_walk import SUFFIXES, list_pictures, printable
from ldm.data.pictures import name_some
from ldm.errors import UserError

ATTRIBUTES = "attributes.csv"  # read if it is in the folder
VALUES = {"0": 0, "1": 1, "-1": -1, "0.0": 0, "1.0": 1, "-1.0": -1}
SKIP = "leave them out with data.corrupt=skip"


class FolderStore:
    """The picture files in a folder and its subfolders, sorted by path; hidden files are left out.

    Links to folders are followed, each folder once; a picture that several links point to counts once.

    Attributes:
        root: the folder.
        names: paths of the pictures relative to it, printable and in Unicode's composed form.
        left_out: by name, the reason why a picture or folder is not read.
    """

    def __init__(self, root: str | Path, skip: bool = False) -> None:
        """List the pictures; with `skip`, unreadable folders and broken links are left out.

        Raises:
            UserError: the folder is missing or has no pictures, or two pictures have the same name; or,
                unless `skip`, a folder cannot be read or a link is broken.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root} is not a folder; set a folder of pictures with data.root=FOLDER")
        paths, unread = list_pictures(str(self.root))
        self.left_out = {printable(path): why for path, why in unread.items()}
        if unread and not skip:
            some = name_some([f"{name} ({why})" for name, why in self.left_out.items()])
            raise UserError(
                f"{root}: {len(unread)} folders or links cannot be read: {some}; repair, or {SKIP}"
            )
        if not paths:
            raise UserError(
                f"{root} has no pictures ({', '.join(sorted(SUFFIXES))}); set another folder with data.root"
            )
        found = sorted((printable(path), path) for path in paths)
        self.names, self._paths = [name for name, _ in found], [path for _, path in found]
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise UserError(
                f"{root} has pictures whose names differ only in their Unicode form ({name_some(twice)}); "
                "rename or remove one of each"
            )

    def read(self, position: int) -> bytes:
        """Bytes of a picture; OSError if the picture cannot be read, or is not a file."""
        path = self.root / self._paths[position]
        if not path.is_file():  # reading a pipe would wait for ever
            raise FileNotFoundError("it is a broken link or not a file")
        return path.read_bytes()

    def digest(self, positions: Sequence[int], progress: Progress = silent) -> str:
        """Digest of all bytes of some pictures, in order; digests of unchanged files are cached."""
        contents = Contents(self.root)
        digests = contents.digest_files([self._paths[position] for position in positions], progress)
        contents.save()
        return digest_texts(digest or "cannot be read" for digest in digests)

    def select(self, positions: Sequence[int]) -> None:
        """Remove all pictures except those at `positions`."""
        self.names = [self.names[position] for position in positions]
        self._paths = [self._paths[position] for position in positions]

    def leave_out(self, reasons: dict[str, str]) -> None:
        """Remove the pictures named in `reasons` and add the reasons to `left_out`."""
        self.left_out.update(reasons)
        self.select([position for position, name in enumerate(self.names) if name not in reasons])


def read_attributes(path: str | Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read an attribute file: names of the attributes, and for each picture the values (A,) int64 in {0, 1}.

    Raises:
        UserError: the file cannot be read, has no header, has a picture twice, or has an invalid value.
    """
    names, rows = read_table(path, "attribute")
    return names, check_attributes(path, names, rows)


def read_table(path: str | Path, what: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Read a CSV file with a row per picture: names of the columns, and for each row its file and cells.

    Raises:
        UserError: the file cannot be read, or has no header; `what` it has in its columns is for the message.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read the {what}s {path}: {error}; save it as CSV in UTF-8") from error
    if len(rows) < 2 or len(rows[0]) < 2 or all(cell.strip() in VALUES for cell in rows[0][1:]):
        raise UserError(f"{path} needs a header (file,{what},...) and a row per picture")
    header, *rows = rows
    return [printable(name.strip()) for name in header[1:]], [
        (printable(row[0]), [cell.strip() for cell in row[1:]]) for row in rows
    ]


def check_names(path: str | Path, what: str, names: Sequence[str], pictures: Sequence[str]) -> None:
    """Raise UserError if a column (a `what`) or a row of a table has no name, or the name of another."""
    for kind, each in ((what, names), ("picture", pictures)):
        twice = [name for name, count in Counter(each).items() if count > 1]
        if twice:
            raise UserError(f"{path} has the {kind} {name_some(twice)} more than once; keep one of each")
        if "" in each:
            raise UserError(f"{path} has a column or row without a name; give every {kind} one")


def check_attributes(
    path: str | Path, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> dict[str, np.ndarray]:
    """Convert rows of text to values (A,) int64 in {0, 1} for each picture; names become printable.

    Raises:
        UserError: a name is empty or occurs twice, a row has another length, a value is not 0, 1 or -1, or
            an attribute has both 0 and -1.
    """
    rows = [(printable(name), values) for name, values in rows]
    check_names(path, "attribute", names, [name for name, _ in rows])
    table = {}
    for name, values in rows:
        numbers = [VALUES.get(value.strip()) for value in values]
        if len(numbers) != len(names) or None in numbers:
            raise UserError(
                f"{path}: the row of {name} needs {len(names)} values, each 0 or 1 (or each -1 or 1)"
            )
        table[name] = np.array(numbers, np.int64)
    stacked = np.stack(list(table.values()))
    mixed = [name for name, column in zip(names, stacked.T, strict=True) if {-1, 0} <= set(column.tolist())]
    if mixed:
        raise UserError(f"{path}: {name_some(mixed)} has both 0 and -1; use 0 and 1, or -1 and 1")
    return {name: np.maximum(row, 0) for name, row in table.items()}


def match_attributes(
    path: str | Path, store: FolderStore, table: Mapping[str, np.ndarray], skip: bool
) -> np.ndarray:
    """Attributes, or other labels, of every picture of a store, in its order, shape (n, A).

    Args:
        path: the file of the labels, for messages.
        store: the pictures; with `skip`, pictures without a row are removed from it, and these and rows
            without a picture are noted in its `left_out`.
        table: values by picture.
        skip: whether to ignore rows without a picture, and pictures without a row.

    Raises:
        UserError: a file name without its folder fits several pictures; or, unless `skip`, a row has no
            picture or a picture has no row.
    """
    places = defaultdict(list)
    for position, name in enumerate(store.names):
        for key in {name, PurePosixPath(name).name}:
            places[key].append(position)
    rows, missing = {}, []
    for key, values in table.items():
        found = [i for i in places.get(key, []) if store.names[i] == key] or places.get(key, [])
        if len(found) > 1:
            several = name_some([store.names[position] for position in found])
            raise UserError(f"{path}: {key} fits {len(found)} pictures ({several}); add their folders")
        if found and found[0] in rows:
            raise UserError(
                f"{path} has the picture {store.names[found[0]]} more than once; keep one of each"
            )
        if found:
            rows[found[0]] = values
        else:
            missing.append(key)
    bare = [name for position, name in enumerate(store.names) if position not in rows]
    remedy = "correct the file, or leave both out with data.corrupt=skip"
    if missing and not skip:
        raise UserError(f"{path} has {len(missing)} rows without a picture ({name_some(missing)}); {remedy}")
    if bare and not skip:
        raise UserError(f"{path} lacks rows for {len(bare)} pictures ({name_some(bare)}); {remedy}")
    if not rows:
        raise UserError(f"{path}: no row belongs to a picture in {store.root}; check the names")
    without_picture = {f"{key} (a row without a picture)": f"it is in {path} alone" for key in missing}
    store.leave_out({**{name: f"it has no row in {path}" for name in bare}, **without_picture})
    return np.stack([rows[position] for position in sorted(rows)])
