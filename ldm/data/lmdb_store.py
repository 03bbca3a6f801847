"""LMDB databases of encoded pictures: LSUN's own (any keys) and those of Diff-AE's kind.

The latter hold `length` and, per picture, one or several sizes under the keys `<size>-<7 digits>`; the
smallest size that is large enough is read. A process opens the database for itself.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ldm.data.arrays import Progress
from ldm.data.contents import Contents
from ldm.errors import UserError

OPENED: dict[Path, tuple[tuple[int, ...], Any]] = {}  # what this process has open; lmdb allows it once
NUMBERED = re.compile(rb"(\d+|None)-(\d{7})")


class LmdbStore:
    """A `PictureStore` of the pictures in an LMDB, in the order of their keys."""

    left_out: Mapping[str, str] = {}

    def __init__(self, path: str | Path, image_size: int) -> None:
        """List the pictures.

        Args:
            path: `data.mdb`, or the folder that holds it, or another LMDB file.
            image_size: that the pictures should have at least.

        Raises:
            UserError: the package lmdb is missing, or the database is none, is truncated or empty.
        """
        path = Path(path)
        self._path = path / "data.mdb" if path.is_dir() else path
        self.root = self._path.parent
        self._keys = self._list_keys(image_size)
        self.names = Keys(self._keys)

    def read(self, position: int) -> bytes:
        """Bytes of a picture.

        Raises:
            UserError: it is not there.
        """
        with self._begin() as transaction:
            data = transaction.get(bytes(self._keys[position]))
        if data is None:
            raise UserError(f"{self._path} has no picture {self.names[position]}; get it again")
        return data

    def digest(self, positions: Sequence[int], progress: Progress | None = None) -> str:
        """Digest of all bytes of some pictures, in order; it is known as long as the file does not change.

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
                    if progress is not None:
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
            raise UserError(f"{self._path} holds no pictures; get it again")
        return np.array(keys)


class Keys(Sequence[str]):
    """Keys as texts, without a copy of them all."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> str:
        if position >= len(self.keys):
            raise IndexError(position)
        return self.keys[position].decode("ascii", "replace")


def open_environment(path: Path) -> Any:
    """A database, opened once in a process.

    Raises:
        UserError: the package lmdb is missing, or the file is none or truncated: pages that are not there
            would kill the process that reads them.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; name an LMDB with data.root")
    lmdb, state = import_lmdb(), path.stat()
    stamp = (os.getpid(), state.st_ino, state.st_size, state.st_mtime_ns)
    known, environment = OPENED.pop(path, (None, None))
    if environment is not None and known != stamp:  # of another file, or inherited from another process
        environment.close()
        environment = None
    if environment is None:
        try:
            environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise UserError(f"{path} is no LMDB ({error}); get it again") from error
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
        raise UserError(f"{root} holds {len(found)} databases ({several}); name one of them with data.root")
    return found[0] if found else None


def import_lmdb() -> ModuleType:
    """The package lmdb.

    Raises:
        UserError: it is not installed.
    """
    try:
        import lmdb
    except ImportError as error:
        raise UserError(
            "LMDB data need the package lmdb; install it with pip install -e '.[lmdb]'"
        ) from error
    return lmdb


def _numbered_keys(transaction: Any, path: Path, length: bytes, image_size: int) -> list[bytes]:
    """Keys `<size>-0000000` and on; the size is the smallest of at least `image_size`, else the largest."""
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
