"""Cached digests of file contents; data set identities are made of them, so every changed byte is noticed.

A digest is computed once and stored in `.disdiff-contents.json` in the data folder, with the file's size,
inode and times of the last change (mtime and ctime). A program can set mtime back, but not ctime. Digests of
files that changed within the last two seconds are not stored, as two changes may get the same time stamp. The
file of digests has its own checksum; if it is damaged or edited, it is ignored and written again.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from ldm.data.arrays import Progress, Rows, silent
from ldm.errors import UserError
from ldm.files import load_json, save_json

FILE = ".disdiff-contents.json"
SETTLED = 2.0  # seconds after a file's last change from which its stamp is trusted
THREADS = 8  # threads that read files: disks and network drives serve several requests together
PART = 4096  # files given to the threads at once
BLOCK_BYTES = 2**24  # block size for digesting an array


class Contents:
    """Digests of files in one folder, and notes on them; `save` writes new ones to disk."""

    def __init__(self, folder: Path) -> None:
        """Read the stored digests; a file that is missing, damaged or edited counts as empty."""
        self.path = folder / FILE
        self._known, self._new = self._load(), {}

    def digest(self, key: str, path: Path, compute: Callable[[], str]) -> str:
        """The digest `key` of something that depends only on the file `path`: stored, else from `compute`.

        A change of the file invalidates the stored digest.

        Raises:
            OSError: the file cannot be read. Exceptions of `compute` are passed on.
        """
        kept = self._kept(key, path)
        if kept is not None:
            return kept
        stamp, digest = _stamp(path), compute()
        if _is_settled(path) and _stamp(path) == stamp:
            self._new[key] = f"{stamp} {digest}"
        return digest

    def digest_file(self, path: Path) -> str:
        """Return the digest of a file in the folder; OSError if the file cannot be read."""
        key = f"file {os.path.relpath(path, self.path.parent)}"
        return self.digest(key, path, lambda: digest_file(path))

    def digest_files(self, names: Sequence[str], progress: Progress = silent) -> list[str | None]:
        """The digests of many files, given relative to the folder, which several threads read.

        `progress` is called with (files done, total files) while files are read.

        Returns:
            A digest for each name; None for a file that cannot be read.
        """
        folder = self.path.parent

        def digest(name: str) -> str | None:
            path = folder / name
            with suppress(OSError):
                return self.digest(f"file {name}", path, lambda: digest_file(path))
            return None

        digests = [self._kept(f"file {name}", os.path.join(folder, name)) for name in names]
        unknown = [position for position, kept in enumerate(digests) if kept is None]
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, len(unknown), PART):
                part = unknown[first : first + PART]
                for position, found in zip(part, pool.map(digest, [names[i] for i in part]), strict=True):
                    digests[position] = found
                progress(first + len(part), len(unknown))
        return digests

    def note(self, key: str, value: str) -> None:
        """Store a value under a key."""
        self._new[key] = value

    def noted(self, key: str) -> str | None:
        """The value stored by `note` under a key, or None."""
        return self._new.get(key, self._known.get(key))

    def save(self) -> None:
        """Write new digests to disk; if the folder cannot be written, they are computed again next time."""
        if self._new:
            self._known = {**self._load(), **self._new}  # another process may have saved since
            self._new = {}
            with suppress(UserError):
                save_json(self.path, {"checksum": _checksum(self._known), "entries": self._known})

    def _kept(self, key: str, path: str | Path) -> str | None:
        stamp, _, digest = self._known.get(key, "").rpartition(" ")
        with suppress(OSError):
            return digest if stamp and stamp == _stamp(path) else None
        return None

    def _load(self) -> dict[str, str]:
        with suppress(UserError, TypeError, KeyError, AttributeError):
            content = load_json(self.path)
            if content["checksum"] == _checksum(content["entries"]):
                return content["entries"]
        return {}


def digest_file(path: Path) -> str:
    """The digest of a regular file; OSError if the file cannot be read, or is not a regular file."""
    if not path.is_file():  # reading a pipe would wait for ever
        raise FileNotFoundError(f"{path} is not a file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def digest_rows(
    rows: Rows, progress: Progress = silent, check: Callable[[np.ndarray], None] | None = None
) -> str:
    """The digest of all rows of an array, independent of the file format.

    Args:
        rows: rows of a file (`H5Rows`, `MappedArray`), whose digest is stored in its folder, or in memory.
        progress: called with (rows done, total rows) while rows are read.
        check: raises UserError for a block of invalid rows; then no digest is stored.

    Raises:
        UserError: the file is damaged, or `check` raises it.
    """

    def compute() -> str:
        digest = hashlib.blake2b(f"{rows.dtype.newbyteorder('=')}{tuple(rows.shape)}".encode())
        row_bytes = max(int(np.prod(rows.shape[1:])) * rows.dtype.itemsize, 1)
        step = max(BLOCK_BYTES // row_bytes, 1)
        for first in range(0, len(rows), step):
            block = np.ascontiguousarray(rows[first : first + step])
            if check is not None:
                check(block)
            digest.update(block.data)
            progress(min(first + step, len(rows)), len(rows))
        return digest.hexdigest()[:32]

    path = getattr(rows, "path", None) or getattr(rows, "filename", None)
    if path is None:
        return compute()
    path = Path(path)
    contents = Contents(path.parent)
    place = getattr(rows, "key", getattr(rows, "offset", None))
    digest = contents.digest(f"rows of {path.name} {place} {tuple(rows.shape)}", path, compute)
    contents.save()
    return digest


def digest_texts(texts: Iterable[str]) -> str:
    """The digest of several texts, in order."""
    return hashlib.blake2b("\0".join(texts).encode()).hexdigest()[:32]


def _stamp(path: str | Path) -> str:
    state = os.stat(path)
    return f"{state.st_size} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}"


def _is_settled(path: Path) -> bool:
    state = path.stat()
    return time.time() - max(state.st_mtime, state.st_ctime) > SETTLED


def _checksum(entries: dict[str, str]) -> str:
    text = "\0".join(f"{key}\0{value}" for key, value in sorted(entries.items()))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
