"""Lazy reading of arrays in HDF5 (`.h5`) and `.npz` files.

An uncompressed HDF5 data set or `.npz` array is memory-mapped in place. Chunks of a few whole images are read
through h5py. Any other compressed array would be decompressed again for every batch, so it is unpacked once,
in blocks, to an `.npy` file in the same folder, which is memory-mapped.
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

from ldm.data.arrays import MappedArray, NpyWriter, Progress, Rows, open_npy, silent
from ldm.data.contents import Contents, digest_texts
from ldm.errors import UserError
from ldm.files import atomic_path

BLOCK_BYTES = 2**26  # block size in memory while unpacking
LAZY_CHUNK_ROWS = 8  # arrays with more images per chunk, or chunks of parts of images, are unpacked
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class RowFormat:
    """Key, row shape and dtype that a reader expects of a large array."""

    key: str
    row_shape: tuple[int, ...]
    dtype: type

    def check(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Raise UserError unless an array of this shape and dtype has at least one row of this format."""
        if shape[1:] != self.row_shape or dtype != self.dtype or not shape[0]:
            expected = f"{np.dtype(self.dtype)} of shape (n, {', '.join(map(str, self.row_shape))})"
            raise UserError(f"{path}: expected {self.key!r} to be {expected}, got {dtype} of shape {shape}")

    def block_rows(self) -> int:
        """Number of rows in a block of BLOCK_BYTES."""
        return max(BLOCK_BYTES // (int(np.prod(self.row_shape)) * np.dtype(self.dtype).itemsize), 1)


class H5Rows:
    """Rows of a chunked HDF5 data set; the file is opened for each read, so no processes share a handle."""

    def __init__(self, path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.key, self.shape, self.dtype = path, key, shape, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read rows by slice or by ascending positions, the order that HDF5 needs."""
        with open_h5(self.path) as file:
            return file[self.key][rows]


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; errors inside the context become a UserError about the file.

    Raises:
        UserError: the file is not HDF5, is truncated or damaged, or lacks a key.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} is not an HDF5 file, or is truncated or incomplete ({_reason(error)}); get it again"
        ) from error


@contextmanager
def create_h5(path: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file atomically.

    Raises:
        UserError: the folder cannot be written or the disk is full; `path` is not created.
    """
    with atomic_path(path) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                yield file
        except (OSError, RuntimeError) as error:
            if "errno" not in str(error).lower():  # HDF5 reports a failed write with its errno
                raise
            reason = f"{_reason(error)}; free some space or choose another folder"
            raise UserError(f"cannot write {path}: {reason}") from error


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an `.npz` file for reading; errors inside the context become a UserError about the file.

    Raises:
        UserError: the file is not a zip of arrays, is truncated or damaged, or lacks a key.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except KeyError as error:
        raise UserError(
            f"{path} is not the file of this data set ({_reason(error)}); get the right one, or save your "
            "own images as pictures in a folder (data.name=folder)"
        ) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not an npz file, or is truncated or incomplete ({_reason(error)}); get it again"
        ) from error


def h5_rows(path: Path, expected: RowFormat, unpacked: Path, progress: Progress = silent) -> Rows:
    """Open a large HDF5 data set lazily; if its chunks are too large, unpack it to the file `unpacked`.

    Raises:
        UserError: the file is damaged, or `unpacked` is needed and cannot be written.
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


def npz_rows(path: Path, expected: RowFormat, unpacked: Path, progress: Progress = silent) -> Rows:
    """Open a large array of an `.npz` file lazily; a compressed one is unpacked to the file `unpacked` first.

    Raises:
        UserError: the file is damaged, or `unpacked` is needed and cannot be written.
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
    """Verify the checksums of all arrays in an `.npz` file; UserError if an array is damaged."""
    with open_npz(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{path}: {damaged} has a wrong checksum; get the file again")


def npz_keys(path: Path) -> list[str]:
    """Names of the arrays in an `.npz` file; UserError if the file is damaged."""
    with open_npz(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_array(path: Path, key: str) -> np.ndarray | None:
    """Read a small array of an `.npz` file into memory; None if the file does not have it.

    Raises:
        UserError: the file is damaged.
    """
    with open_npz(path), np.load(path, allow_pickle=False) as arrays:
        return arrays[key] if key in arrays else None


def unpack_once(
    unpacked: Path,
    originals: Sequence[Path],
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    blocks: Iterable[np.ndarray],
    progress: Progress = silent,
) -> MappedArray:
    """Memory-map `unpacked`; write it first unless it exists, is complete and was made from `originals`.

    Args:
        unpacked: the `.npy` file.
        originals: files from which the rows are read.
        shape: shape of the array, of type `dtype`.
        dtype: see `shape`.
        blocks: the rows in order, as arrays of any number of rows; consumed only if `unpacked` is written.
        progress: called with (rows done, total rows).

    Raises:
        UserError: `unpacked` cannot be written; an existing file is not changed.
    """
    contents, note = Contents(unpacked.parent), f"made from {unpacked.name}"
    made_from = digest_texts([text for path in originals for text in (path.name, contents.digest_file(path))])
    if contents.noted(note) == made_from:
        with suppress(OSError, ValueError):  # missing or incomplete
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
                progress(done, shape[0])
    contents.note(note, made_from)
    contents.save()
    return open_npy(unpacked)


def _reason(error: Exception) -> str:
    """The error's message on one line; the system's message if HDF5 quotes one."""
    text = " ".join(str(error.args[-1] if error.args else error).split())
    quoted = re.search("error message = '([^']+)'", text)
    return quoted[1] if quoted else text


def _stored_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Offset of an uncompressed entry's bytes; its local header has a name and extras of variable length."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name_length + extra_length
