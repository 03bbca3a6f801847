"""LMDB databases of encoded pictures, in the formats of LSUN (any keys) and of Diff-AE.

Diff-AE's databases have the key `length` and, per picture, one or several sizes with the keys
`<size>-<7 digits>`; the smallest size that is large enough is read. Each process opens the database itself.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ldm.data.arrays import Progress, silent
from ldm.data.contents import Contents
from ldm.errors import UserError

OPENED: dict[Path, tuple[tuple[int, ...], Any]] = {}  # databases open in this process; lmdb allows each once
NUMBERED = re.compile(rb"(\d+|None)-(\d{7})")


class LmdbStore:
    """A `PictureStore` of the pictures in an LMDB, in key order."""

    left_out: Mapping[str, str] = {}

    def __init__(self, path: str | Path, image_size: int) -> None:
        """List the pictures of `path`: `data.mdb`, its folder, or another LMDB file.

        Raises:
            UserError: the package lmdb is missing, or the file is not an LMDB, is truncated or is empty.
        """
        path = Path(path)
        self._path = path / "data.mdb" if path.is_dir() else path
        self.root = self._path.parent
        self._keys = self._list_keys(image_size)
        self.names = Keys(self._keys)

    def read(self, position: int) -> bytes:
        """Bytes of a picture; UserError if the picture is missing."""
        with self._begin() as transaction:
            data = transaction.get(bytes(self._keys[position]))
        if data is None:
            raise UserError(f"{self._path} has no picture {self.names[position]}; get it again")
        return data

    def digest(self, positions: Sequence[int], progress: Progress = silent) -> str:
        """Digest of all bytes of some pictures, in order; cached as long as the file does not change.

        Raises:
            UserError: the database is damaged.
        """
        keys = self._keys[list(positions)]

        def compute() -> str:
            digest = hashlib.blake2b()
            with self._begin() as transaction:
                for number, key in enumerate(keys, start=1):
                    data = transaction.get(bytes(key)) or b""
                    digest.update(f"{len(data)} ".encode() + data)
                    progress(number, len(keys))
            return digest.hexdigest()[:32]

        contents, chosen = Contents(self.root), hashlib.blake2b(keys.tobytes()).hexdigest()[:32]
        try:
            digest = contents.digest(f"pictures of {self._path.name} {chosen}", self._path, compute)
        except import_lmdb().Error as error:
            raise UserError(f"{self._path} is damaged ({error}); get it again") from error
        contents.save()
        return digest

    def _begin(self) -> Any:
        return open_environment(self._path).begin()

    def _list_keys(self, image_size: int) -> np.ndarray:
        with self._begin() as transaction:
            length = transaction.get(b"length")
            if length is None:
                keys = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
            else:
                keys = _numbered_keys(transaction, self._path, length, image_size)
        if not keys:
            raise UserError(f"{self._path} has no pictures; get it again")
        return np.array(keys)


class Keys(Sequence[str]):
    """Sequence of keys as str, decoded on access instead of copied."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> str:
        if position >= len(self.keys):
            raise IndexError(position)
        return self.keys[position].decode("ascii", "replace")


def open_environment(path: Path) -> Any:
    """Open a database, once per process.

    Raises:
        UserError: the package lmdb is missing, or the file is not an LMDB or is truncated (reading a missing
            page would kill the process).
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; set an LMDB with data.root")
    lmdb, state = import_lmdb(), path.stat()
    stamp = (os.getpid(), state.st_ino, state.st_size, state.st_mtime_ns)
    known, environment = OPENED.pop(path, (None, None))
    if environment is not None and known != stamp:  # file replaced, or process forked
        environment.close()
        environment = None
    if environment is None:
        try:
            environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise UserError(
                f"{path} is neither a folder of pictures nor an LMDB ({error}); give such a folder, "
                "or, if it should be an LMDB, get it again"
            ) from error
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if state.st_size < size:
            environment.close()
            raise UserError(f"{path} is truncated: it needs {size} bytes; get it again")
    OPENED[path] = stamp, environment
    return environment


def find_lmdb(root: Path) -> Path | None:
    """The LMDB at `root`: a file, a folder with `data.mdb`, or one such file or folder in it."""
    if root.is_file() or (root / "data.mdb").is_file():
        return root
    found = [path for each in ("*/data.mdb", "*.lmdb", "*.mdb") for path in root.glob(each) if path.is_file()]
    if len(found) > 1:
        several = ", ".join(sorted(path.relative_to(root).as_posix() for path in found))
        raise UserError(f"{root} has {len(found)} databases ({several}); choose one of them with data.root")
    return found[0] if found else None


def import_lmdb() -> ModuleType:
    """Import the package lmdb; UserError if it is not installed."""
    try:
        import lmdb
    except ImportError as error:
        raise UserError(
            "LMDB data needs the package lmdb; install it with pip install -e '.[lmdb]'"
        ) from error
    return lmdb


def _numbered_keys(transaction: Any, path: Path, length: bytes, image_size: int) -> list[bytes]:
    """Keys `<size>-0000000` and so on, for the smallest size of at least `image_size`, else the largest."""
    with transaction.cursor() as cursor:
        found = [key for key in cursor.iternext(keys=True, values=False) if NUMBERED.fullmatch(key)]
    sizes = {NUMBERED.fullmatch(key)[1] for key in found}
    known = sorted(int(size) for size in sizes if size != b"None")
    if not sizes:
        return []
    enough = [size for size in known if size >= image_size]
    size = str(enough[0] if enough else known[-1]).encode() if known else b"None"
    keys = sorted(key for key in found if key.startswith(size + b"-"))
    if length.strip() != str(len(keys)).encode():
        says = length.decode("ascii", "backslashreplace")
        raise UserError(
            f"{path} has {len(keys)} pictures of size {size.decode()}, but says {says}; get it again"
        )
    return keys
