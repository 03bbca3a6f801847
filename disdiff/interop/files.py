"""Read weight files made by others (both PyTorch formats and safetensors) as named tensors.

Since version 1.6 PyTorch writes a zip archive with `data.pkl` and one record per storage; older versions
wrote five pickles followed by the storages. Neither is unpickled: `pickle_reader` interprets them without
calling anything. Other content of Lightning checkpoints (callbacks, optimisers, loops) is ignored. A model in
several files is read through its index (`...index.json`).
"""

import io
import json
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

from disdiff.interop.names import AVERAGE
from disdiff.interop.pickle_reader import Refused, Storage, StoredTensor, read_pickle
from ldm.errors import UserError

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_PICKLE = 1 << 29  # bytes of data.pkl; released checkpoints have about 10 MB
MAX_NESTING = 8  # nested dictionaries around a tensor
INDEX = ".index.json"


@dataclass(frozen=True)
class NamedTensor:
    """A tensor in a file; `load` reads it on demand."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


@dataclass
class WeightsFile:
    """Content of a weight file.

    Attributes:
        path: path of the file.
        tensors: tensors by name.
        numbers: integers beside the weights, such as `global_step`.
        others: names among the weights whose values are not tensors.
    """

    path: Path
    tensors: dict[str, NamedTensor]
    numbers: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def read_weights_file(path: str | Path) -> WeightsFile:
    """Read a `.ckpt`, `.pt`, `.pth`, `.bin`, `.safetensors` or `.index.json` file.

    The format is detected from the content.

    Raises:
        UserError: the file is missing, is damaged, or holds no weights.
    """
    path = Path(path)
    if path.name.endswith(INDEX):
        return read_index(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[:4] == b"PK\x03\x04":
            return sort_content(path, read_zip(path))
        if head[8:9] == b"{":
            return read_safetensors(path)
        return sort_content(path, read_legacy(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give a file of weights") from error
    except Refused as error:
        raise UserError(f"{path} cannot be read as weights: {error}; no code in it was executed") from error
    except (OSError, ValueError, struct.error, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"{path} is not a readable weight file ({error}); download it again") from error


def read_zip(path: Path) -> Any:
    """Content of a zip archive of torch.save; tensor values are read on demand."""
    archive = zipfile.ZipFile(path)
    records = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused("it is an archive without data.pkl")
    folder, size = pickles[0].rpartition("/")[0], path.stat().st_size

    def read(name: str, limit: int) -> bytes:
        """Read a record of at most `limit` bytes; a larger or compressed record is refused unread."""
        info = records.get(name)
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size > min(limit, size):
            raise Refused(f"its record {name} is missing, compressed, or larger than the file")
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
            raise UserError(f"{path} is damaged ({error}); get it again") from error

    if f"{folder}/byteorder" in records and read(f"{folder}/byteorder", 16) != b"little":
        raise Refused("its numbers are in big-endian order")

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> Storage:
        """The storage of the record `key`, not yet read; refused if it has fewer than `numel` numbers."""
        name, wanted = f"{folder}/data/{key}", numel * dtype.itemsize
        info = records.get(name)
        if info is None or info.file_size < wanted:
            raise Refused(f"its record {name} is missing or has fewer than {numel} numbers")
        return Storage(dtype, numel, lambda: memoryview(read(name, size))[:wanted])

    return read_pickle(io.BytesIO(read(pickles[0], MAX_PICKLE)), find_storage)


def read_legacy(path: Path) -> Any:
    """Content of a file from torch.save before 1.6: pickles followed by the storages."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # stays open while tensors refer to it
    places: dict[str, tuple[int, int]] = {}  # key: start, numel

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> Storage:
        """The storage `key`; its position in the file is known only after all pickles are read."""

        def read() -> bytes:
            """Bytes of the storage; UserError if the file has no such storage of this size."""
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
    keys = read_pickle(content, find_storage)
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise Refused("it does not list its storages")
    for key in map(str, keys):
        (numel,) = struct.unpack("<q", content.read(8))
        start, length = content.tell(), numel * itemsizes.get(key, 1)
        if not 0 <= length <= len(content) - start:
            raise Refused(f"it is cut short: storage {key} reaches beyond its end")
        places[key] = (start, numel)
        content.seek(start + length)
    return tree


def read_index(path: Path) -> WeightsFile:
    """The tensors of the files that an index names; all files are in its folder.

    Raises:
        UserError: the index is invalid, or a file or a tensor that it names is missing.
    """
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        strange = [name for name in names if not name or Path(name).name != name or name.endswith(INDEX)]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not the index of a model in several files; download it again") from error
    if strange:
        raise UserError(
            f"{path} names {strange[0]!r}, which is not a weight file in its folder; download it again"
        )
    parts = {name: read_weights_file(path.with_name(name)) for name in names}
    for name, part in places.items():
        if name not in parts[part].tensors:
            raise UserError(
                f"{path.with_name(part)} lacks the tensor {name} listed in {path.name}; download it again"
            )
    return WeightsFile(path, {name: parts[part].tensors[name] for name, part in places.items()})


def read_safetensors(path: Path) -> WeightsFile:
    """The named tensors of a safetensors file."""
    file = safe_open(path, framework="pt")

    def refer(name: str) -> NamedTensor:
        """A tensor reference with the shape from the file header."""
        return NamedTensor(tuple(file.get_slice(name).get_shape()), lambda: file.get_tensor(name))

    return WeightsFile(path, {name: refer(name) for name in file.keys()})


def sort_content(path: Path, tree: Any) -> WeightsFile:
    """The weights of a checkpoint: `state_dict` with its moving averages, or else all content.

    A tensor in nested dictionaries is named by the keys, joined with dots.

    Raises:
        Refused: the checkpoint has no named tensors.
    """
    if not isinstance(tree, dict):
        raise Refused("it holds no tensors by name")
    numbers = {k: n for k, n in tree.items() if isinstance(k, str) and type(n) is int and abs(n) < 2**63}
    if isinstance(tree.get("state_dict"), dict):
        beside = {key: tree[key] for key in tree if isinstance(key, str) and AVERAGE.search(key)}
        tree = {**beside, **tree["state_dict"]}
    tensors: dict[str, NamedTensor] = {}
    others: list[str] = []
    seen, waiting = {id(tree)}, [("", 1, tree)]
    while waiting:  # visit every dictionary once, even if it occurs in several places or contains itself
        prefix, depth, part = waiting.pop()
        strangers = []
        for key, value in part.items():
            if isinstance(key, str) and isinstance(value, StoredTensor):
                tensors[prefix + key] = NamedTensor(value.shape, value.load)
            elif isinstance(key, str) and isinstance(value, dict):
                if id(value) not in seen and depth < MAX_NESTING:
                    seen.add(id(value))
                    waiting.append((f"{prefix}{key}.", depth + 1, value))
            else:
                strangers.append(f"{prefix}{key}" if isinstance(key, str) else "an object")
        if any(isinstance(value, StoredTensor) for value in part.values()):
            others += strangers
    if not tensors:
        raise Refused("it holds no tensors by name")
    return WeightsFile(path, tensors, numbers, others)
