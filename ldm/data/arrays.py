"""Arrays on disk that need not fit in memory: memory-mapped for reading, written row by row."""

import io
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ldm.errors import UserError

Progress = Callable[[int, int], None]  # called with (rows done, total rows)


def silent(*progress: object) -> None:
    """A progress function that shows nothing."""


def show_on(bar: tqdm) -> Progress:
    """A progress function that moves a bar; a total of 0 is unknown."""

    def update(done: int, total: int) -> None:
        bar.total = total or None
        bar.update(done - bar.n)

    return update


class Rows(Protocol):
    """Input of `gather`: a numpy array, a memory map, or a file that is read lazily."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray: ...


class MappedArray(np.memmap):
    """A read-only memory map that pickles as path, offset and shape: worker processes map the same file."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not isinstance(self.base, mmap.mmap):  # a view: numpy does not know its offset in the file
            return np.array(self).__reduce_ex__(protocol)
        return MappedArray, (self.filename, self.dtype, "r", self.offset, self.shape)


def open_npy(path: Path) -> MappedArray:
    """Memory-map an `.npy` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not an `.npy` file, or is shorter than its header says.
    """
    array = np.lib.format.open_memmap(path, mode="r")
    return MappedArray(path, array.dtype, "r", array.offset, array.shape)


def gather(array: Rows | Tensor, index: Tensor) -> Tensor:
    """Copy the rows `index` (B,) int64, in any order, repeats allowed, of an array (n, ...), shape (B, ...).

    A row of a file is read only once, and rows are read in ascending order. The copy stays on the device.

    Raises:
        ValueError: a row is out of range.
    """
    if isinstance(array, Tensor):
        return array.index_select(0, index.to(array.device))
    rows, inverse = unique_rows(index, len(array))
    return torch.from_numpy(np.asarray(array[rows])[inverse])


def unique_rows(index: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows in `index` (B,) int64, ascending, and for each entry of `index` its position there.

    Raises:
        ValueError: a row is not in [0, count).
    """
    rows, inverse = np.unique(index.cpu().numpy(), return_inverse=True)
    if len(rows) and not 0 <= rows[0] <= rows[-1] < count:
        raise ValueError(f"expected rows from 0 to {count - 1}, got {rows[0]} to {rows[-1]}")
    return rows, inverse


class NpyWriter:
    """Appends rows to an `.npy` file whose header has the final shape from the start.

    Rows are written to the file, not through a memory map (`np.lib.format.open_memmap`): a full disk then
    raises an error instead of killing the process. Until the last row is written, the file is shorter than
    its header says, so readers can see that it is incomplete.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype | type, done: int = 0) -> None:
        """Start a file, or with `done` > 0 append after that many rows to a file for which `holds_rows`."""
        self.path, self.row_shape, self.dtype = path, shape[1:], np.dtype(dtype)
        with self._write_errors():
            if done == 0:
                path.unlink(missing_ok=True)  # processes that still map the old file keep it
            self._file = path.open("r+b" if done else "wb")
            self._file.write(npy_header(shape, self.dtype))
            self._file.truncate(_npy_bytes(shape, self.dtype, done))
            self._file.seek(0, os.SEEK_END)

    def append(self, rows: np.ndarray) -> None:
        """Write rows, shape (B, *shape[1:]), of the file's dtype.

        Raises:
            UserError: the file cannot be written, for instance because the disk is full.
            ValueError: the rows have another shape or dtype.
        """
        if rows.shape[1:] != self.row_shape or rows.dtype != self.dtype:
            expected = f"{self.dtype} rows of {self.row_shape}"
            raise ValueError(
                f"expected {expected} for {self.path}, got {rows.dtype} rows of {rows.shape[1:]}"
            )
        with self._write_errors():
            self._file.write(np.ascontiguousarray(rows).data)

    def sync(self) -> None:
        """Flush appended rows to the disk; UserError if the file cannot be written."""
        with self._write_errors():
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._write_errors():
            self._file.close()

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{error.strerror or error}; free some space or choose another folder"
            raise UserError(f"cannot write {self.path}: {reason}") from error


def holds_rows(path: Path, shape: tuple[int, ...], dtype: np.dtype | type, done: int) -> bool:
    """Whether `path` was started by `NpyWriter` with this shape and dtype and has at least `done` rows."""
    header = npy_header(shape, np.dtype(dtype))
    try:
        with path.open("rb") as file:
            return file.read(len(header)) == header and path.stat().st_size >= _npy_bytes(shape, dtype, done)
    except OSError:
        return False


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The header of an `.npy` file of this shape and dtype."""
    buffer = io.BytesIO()
    content = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, content)
    return buffer.getvalue()


def _npy_bytes(shape: tuple[int, ...], dtype: np.dtype | type, rows: int) -> int:
    dtype = np.dtype(dtype)
    return len(npy_header(shape, dtype)) + rows * int(np.prod(shape[1:])) * dtype.itemsize
