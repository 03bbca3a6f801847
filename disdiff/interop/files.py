"""Files of weights made by others, as named tensors: PyTorch's two formats and safetensors.

PyTorch writes a zip archive (`data.pkl` beside one record per storage; since 1.6) or, before, five pickles
followed by the storages. Neither is ever unpickled: `pickle_reader` interprets them, calling nothing. What
Lightning keeps beside the weights (callbacks, optimisers, loops) is passed over.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from disdiff.interop.pickle_reader import Refused, Storage, StoredTensor, read_pickle
from ldm.errors import UserError

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_PICKLE = 1 << 29  # bytes of data.pkl; released checkpoints have some 10 MB


@dataclass(frozen=True)
class NamedTensor:
    """A tensor in a file, read by `load` when it is wanted."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


@dataclass
class WeightsFile:
    """What a file of weights holds.

    Attributes:
        path: of the file.
        tensors: by name.
        numbers: whole numbers beside the weights, such as `global_step`.
        others: names among the weights that are no tensors.
    """

    path: Path
    tensors: dict[str, NamedTensor]
    numbers: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def read_weights_file(path: str | Path) -> WeightsFile:
    """Read a `.ckpt`, `.pt`, `.pth`, `.bin` or `.safetensors`; whichever it is shows in its content.

    Raises:
        UserError: the file is missing, damaged, or holds no weights.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[:4] == b"PK\x03\x04":
            return sort_content(path, read_zip(path))
        if head[8:9] == b"{":
            return read_safetensors(path)
        return sort_content(path, read_legacy(path))
    except Refused as error:
        raise UserError(f"{path} cannot be read as weights: {error}; nothing in it was run") from error
    except (OSError, ValueError, struct.error, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"{path} is no readable file of weights ({error}); get it again") from error


def read_zip(path: Path) -> Any:
    """Content of an archive of torch.save; numbers are read when they are asked for."""
    archive = zipfile.ZipFile(path)
    records = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused("it is an archive without data.pkl")
    folder, size = pickles[0].rpartition("/")[0], path.stat().st_size

    def read(name: str, limit: int) -> bytes:
        """Bytes of a record of at most `limit` bytes; a larger or compressed one is refused unread."""
        info = records.get(name)
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size > min(limit, size):
            raise Refused(f"its record {name} is missing, compressed, or larger than the file")
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}); get it again") from error

    if f"{folder}/byteorder" in records and read(f"{folder}/byteorder", 16) != b"little":
        raise Refused("its numbers are in big-endian order")

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> Storage:
        """The storage of the record `key`, unread; refused when it holds fewer than `numel` numbers."""
        name, wanted = f"{folder}/data/{key}", numel * dtype.itemsize
        info = records.get(name)
        if info is None or info.file_size < wanted:
            raise Refused(f"its record {name} is missing or has fewer than {numel} numbers")
        return Storage(dtype, numel, lambda: memoryview(read(name, size))[:wanted])

    return read_pickle(io.BytesIO(read(pickles[0], MAX_PICKLE)), find_storage)


def read_legacy(path: Path) -> Any:
    """Content of a file that torch.save wrote before 1.6: pickles, then the storages one after another."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # stays open while tensors refer to it
    places: dict[str, tuple[int, int]] = {}  # key: start, numel

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> Storage:
        """The storage `key`, whose place in the file is known only once all pickles are read."""

        def read() -> bytes:
            """Bytes of the storage; UserError when the file lists none of this size."""
            start, count = places.get(key, (0, -1))
            if count != numel:
                raise UserError(f"{path} is damaged (storage {key} is missing); get it again")
            return content[start : start + numel * dtype.itemsize]

        itemsizes[key] = dtype.itemsize
        return Storage(dtype, numel, read)

    itemsizes: dict[str, int] = {}
    if read_pickle(content, find_storage) != LEGACY_MAGIC:
        raise Refused("it is of no known format")
    if read_pickle(content, find_storage) != LEGACY_PROTOCOL:
        raise Refused("it is of an unknown protocol of torch.save")
    system = read_pickle(content, find_storage)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("its numbers are in big-endian order")
    tree = read_pickle(content, find_storage)
    for key in map(str, read_pickle(content, find_storage)):
        (numel,) = struct.unpack("<q", content.read(8))
        start, length = content.tell(), numel * itemsizes.get(key, 1)
        if not 0 <= length <= len(content) - start:
            raise Refused(f"it is cut short: storage {key} reaches beyond its end")
        places[key] = (start, numel)
        content.seek(start + length)
    return tree


def read_safetensors(path: Path) -> WeightsFile:
    """Names and shapes of a safetensors file."""
    file = safe_open(path, framework="pt")

    def refer(name: str) -> NamedTensor:
        """The shape of a tensor, from the head of the file, and how to read it."""
        return NamedTensor(tuple(file.get_slice(name).get_shape()), lambda: file.get_tensor(name))

    return WeightsFile(path, {name: refer(name) for name in file.keys()})


def sort_content(path: Path, tree: Any) -> WeightsFile:
    """The weights of a checkpoint: its `state_dict`, or all of it when it is one itself.

    Raises:
        Refused: it holds no named tensors.
    """
    numbers = {}
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        numbers = {key: n for key, n in tree.items() if isinstance(key, str) and type(n) is int}
        tree = tree["state_dict"]
    named = tree if isinstance(tree, dict) else {}
    tensors = {
        key: NamedTensor(value.shape, value.load)
        for key, value in named.items()
        if isinstance(key, str) and isinstance(value, StoredTensor)
    }
    if not tensors:
        raise Refused("it holds no tensors by name")
    others = [key if isinstance(key, str) else "an object" for key in named if key not in tensors]
    return WeightsFile(path, tensors, numbers, others)
