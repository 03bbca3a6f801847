"""The two file forms in which data sets are published, `.h5` and `.npz`, as arrays that are read lazily.

An uncompressed HDF5 data set or `.npz` array is mapped where it lies. Chunks of a few whole images are read
through h5py. Anything else would be decompressed again for every batch, so it is unpacked once, in blocks, to
an `.npy` beside it, which is mapped.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ldm.data.arrays import MappedArray, NpyWriter, Progress, Rows, open_npy
from ldm.data.contents import Contents, digest_texts
from ldm.errors import UserError
from ldm.files import atomic_path

BLOCK_BYTES = 2**26  # held in memory while unpacking
LAZY_CHUNK_ROWS = 8  # chunks of more images, or of parts of images, are unpacked instead
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class RowFormat:
    """What a reader expects of a large array: where it is and what one row looks like."""

    key: str
    row_shape: tuple[int, ...]
    dtype: type

    def check(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Raise UserError unless an array of this shape and dtype holds such rows, at least one."""
        if shape[1:] != self.row_shape or dtype != self.dtype or not shape[0]:
            expected = f"{np.dtype(self.dtype)} of shape (n, {', '.join(map(str, self.row_shape))})"
            raise UserError(f"{path}: expected {self.key!r} to be {expected}, got {dtype} of shape {shape}")

    def block_rows(self) -> int:
        """Rows that fit into the memory used for unpacking."""
        return max(BLOCK_BYTES // (int(np.prod(self.row_shape)) * np.dtype(self.dtype).itemsize), 1)


class H5Rows:
    """Rows of a chunked HDF5 data set; the file is opened for each read, so processes share no handle."""

    def __init__(self, path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.key, self.shape, self.dtype = path, key, shape, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by slice or by ascending positions, as HDF5 wants them."""
        with open_h5(self.path) as file:
            return file[self.key][rows]


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; a failure inside means that the file is bad.

    Raises:
        UserError: the file is not HDF5, truncated, damaged or lacks a key.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} is not HDF5, truncated or incomplete ({_reason(error)}); get it again"
        ) from error


@contextmanager
def create_h5(path: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file atomically.

    Raises:
        UserError: the folder cannot be written or the disk is full; nothing is left under `path`.
    """
    with atomic_path(path) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                yield file
        except (OSError, RuntimeError) as error:
            if "errno" not in str(error).lower():  # not HDF5's report of a failed write
                raise
            reason = f"{_reason(error)}; free some space or choose another folder"
            raise UserError(f"cannot write {path}: {reason}") from error


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an `.npz` file for reading; a failure inside means that the file is bad.

    Raises:
        UserError: the file is not a zip of arrays, truncated, damaged or lacks a key.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not npz, truncated or incomplete ({_reason(error)}); get it again"
        ) from error


def h5_rows(path: Path, expected: RowFormat, unpacked: Path, progress: Progress | None = None) -> Rows:
    """Open a large HDF5 data set lazily, unpacked to the file `unpacked` when its chunks forbid random reads.

    Raises:
        UserError: the file is bad, or `unpacked` is needed and cannot be written.
    """
    with open_h5(path) as file:
        dataset = file[expected.key]
        expected.check(path, dataset.shape, dataset.dtype)
        shape, dtype, chunks, offset = dataset.shape, dataset.dtype, dataset.chunks, dataset.id.get_offset()
        if offset is not None:
            return MappedArray(path, dtype, "r", offset, shape)
    rows = H5Rows(path, expected.key, shape, dtype)
    if chunks is None:
        raise UserError(f"{path} has no data in {expected.key!r}; get it again")
    if chunks[1:] == shape[1:] and chunks[0] <= LAZY_CHUNK_ROWS:
        return rows
    step = max(expected.block_rows() // chunks[0], 1) * chunks[0]
    blocks = (rows[first : first + step] for first in range(0, len(rows), step))
    return unpack_once(unpacked, [path], shape, dtype, blocks, progress)


def npz_rows(path: Path, expected: RowFormat, unpacked: Path, progress: Progress | None = None) -> Rows:
    """Open a large array of an `.npz` file lazily; a compressed one is unpacked to the file `unpacked` first.

    Raises:
        UserError: the file is bad, or `unpacked` is needed and cannot be written.
    """
    name = f"{expected.key}.npy"
    with open_npz(path) as archive, archive.open(name) as stream:
        shape, fortran_order, dtype = NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
        expected.check(path, shape, dtype)
        if fortran_order:
            raise UserError(f"{path}: expected {expected.key!r} in C order; save np.ascontiguousarray of it")
        entry, header_bytes = archive.getinfo(name), stream.tell()
        step, row_bytes = expected.block_rows(), int(np.prod(shape[1:])) * dtype.itemsize
        if entry.file_size != header_bytes + shape[0] * row_bytes:
            raise EOFError(f"{name} is shorter than its header says")
        if entry.compress_type == zipfile.ZIP_STORED:
            return MappedArray(path, dtype, "r", _stored_offset(path, entry) + header_bytes, shape)
        sizes = (min(step, shape[0] - first) for first in range(0, shape[0], step))
        blocks = (np.frombuffer(stream.read(n * row_bytes), dtype).reshape(n, *shape[1:]) for n in sizes)
        return unpack_once(unpacked, [path], shape, dtype, blocks, progress)


def verify_npz(path: Path) -> None:
    """Read a whole `.npz` file against its checksums.

    Raises:
        UserError: one of its arrays is damaged.
    """
    with open_npz(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{path}: {damaged} does not have the checksum it was saved with; get it again")


def npz_keys(path: Path) -> list[str]:
    """Names of the arrays of an `.npz` file.

    Raises:
        UserError: the file is bad.
    """
    with open_npz(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_array(path: Path, key: str) -> np.ndarray | None:
    """Read a small array of an `.npz` file into memory; None when the file lacks it.

    Raises:
        UserError: the file is bad.
    """
    with open_npz(path), np.load(path, allow_pickle=False) as arrays:
        return arrays[key] if key in arrays else None


def unpack_once(
    unpacked: Path,
    originals: Sequence[Path],
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    blocks: Iterable[np.ndarray],
    progress: Progress | None = None,
) -> MappedArray:
    """Map `unpacked`, written from `blocks` first unless it is whole, fits and was made from `originals`.

    Args:
        unpacked: the `.npy` file.
        originals: files that the rows come from.
        shape: of the array.
        dtype: of the array.
        blocks: its rows in order, as arrays of any number of rows; only read when there is need to.
        progress: told (rows done, rows in all).

    Raises:
        UserError: it cannot be written; what was there before stays.
    """
    contents, note = Contents(unpacked.parent), f"made from {unpacked.name}"
    made_from = digest_texts([text for path in originals for text in (path.name, contents.digest_file(path))])
    if contents.noted(note) == made_from:
        with suppress(OSError, ValueError):  # not there, or not whole
            array = open_npy(unpacked)
            if array.shape == shape and array.dtype == dtype:
                contents.save()
                return array
    done = 0
    with atomic_path(unpacked) as temporary:
        with NpyWriter(temporary, shape, dtype) as writer:
            for block in blocks:
                writer.append(block)
                done += len(block)
                if progress is not None:
                    progress(done, shape[0])
    contents.note(note, made_from)
    contents.save()
    return open_npy(unpacked)


def _reason(error: Exception) -> str:
    """One line: the system's message where HDF5 quotes it, else the library's own."""
    text = " ".join(str(error.args[-1] if error.args else error).split())
    quoted = re.search("error message = '([^']+)'", text)
    return quoted[1] if quoted else text


def _stored_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed entry begin: its own header has a name and extras of any length."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name_length + extra_length
