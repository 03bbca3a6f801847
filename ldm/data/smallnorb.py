"""Reader of SmallNORB (LeCun et al. 2004): 48,600 grey photographs of toys by the first camera, at 64x64.

There are six files in NYU's binary matrix format, also as `.gz`: for `training` and `testing` the images
(`dat`, uint8 (24300, 2, 96, 96)), the category (`cat`, int32 (24300,)), and instance, elevation, azimuth
(even numbers) and lighting (`info`, int32 (24300, 4)). The format is: magic number, number of dimensions n,
then max(n, 3) sizes, all little-endian int32, then the values. Images keep the order of the files, training
first. The instance (one of ten toys per category) is not used as a factor, as is usual.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch

from ldm.data.archives import unpack_once
from ldm.data.arrays import Progress, silent
from ldm.data.cars3d import SIZE, shrink
from ldm.data.factor_space import FactorSpace
from ldm.data.files import absent
from ldm.data.grid import GREY, GridImages
from ldm.errors import UserError

SPACE = FactorSpace(("category", "elevation", "azimuth", "lighting"), (5, 9, 18, 6))
PARTS = ("5x46789x9x18x6x2x96x96-training", "5x01235x9x18x6x2x96x96-testing")
MAGIC: dict[int, np.dtype] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
PHOTOGRAPHS = (2, 96, 96)
BLOCK = 512  # pairs of photographs in memory at once


def open_smallnorb(root: str | Path, progress: Progress = silent) -> GridImages:
    """Open the six files in a folder; the images are resized to 64x64 once, into `smallnorb.images.npy`.

    `progress` is called with (images done, total images) the first time.

    Raises:
        UserError: a file is missing, damaged or truncated, or has another shape.
    """
    root = Path(root)
    labels, images = [], []
    for part in PARTS:
        category, info = (read_matrix(_locate(root, part, kind)) for kind in ("cat", "info"))
        if category.ndim != 1 or info.shape != (len(category), 4):
            raise UserError(f"{root}: the labels of smallnorb-{part} have another shape; get the files again")
        azimuth = np.where(info[:, 2] % 2, -1, info[:, 2] // 2)  # valid azimuths are even
        labels.append(np.stack([category, info[:, 1], azimuth, info[:, 3]], axis=1))
        images.append(_locate(root, part, "dat"))
    factors = torch.from_numpy(np.concatenate(labels).astype(np.int64))
    if bool(((factors < 0) | (factors >= torch.tensor(SPACE.sizes))).any()):
        raise UserError(f"{root}: a label is not a value of SmallNORB; get the files again")
    counts = [len(part) for part in labels]
    blocks = (
        block for path, count in zip(images, counts, strict=True) for block in _read_images(path, count)
    )
    shape = (sum(counts), SIZE, SIZE)
    rows = unpack_once(root / "smallnorb.images.npy", images, shape, np.uint8, blocks, progress)
    preparation = f"first camera, 96x96 brought to 64x64 by Lanczos resampling, {GREY}"
    return GridImages("smallnorb", rows, SPACE, factors, preparation=preparation, progress=progress)


def find_smallnorb(root: Path) -> Path | None:
    """The first file that `open_smallnorb` opens, or None."""
    names = [f"smallnorb-{PARTS[0]}-dat.mat{suffix}" for suffix in ("", ".gz")]
    return next((root / name for name in names if (root / name).is_file()), None)


def read_matrix(path: Path) -> np.ndarray:
    """Read a whole matrix file; UserError if the file is damaged or truncated."""
    with _open_matrix(path) as (stream, dtype, shape):
        data = stream.read()
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise EOFError("it is truncated or longer than its header says")
        return np.frombuffer(data, dtype).reshape(shape)


def _read_images(path: Path, count: int) -> Iterator[np.ndarray]:
    """Yield the first camera's images in blocks, at 64x64."""
    with _open_matrix(path) as (stream, dtype, shape):
        if shape != (count, *PHOTOGRAPHS) or dtype != np.uint8:
            expected = f"uint8 of shape {(count, *PHOTOGRAPHS)}"
            raise UserError(f"{path}: expected {expected}, got {dtype} of shape {shape}; get it again")
        for first in range(0, count, BLOCK):
            size = min(BLOCK, count - first)
            data = _read(stream, size * int(np.prod(PHOTOGRAPHS)))
            pairs = np.frombuffer(data, np.uint8).reshape(size, *PHOTOGRAPHS)
            yield np.stack([shrink(left) for left in pairs[:, 0]])
        if stream.read(1):  # reading to the end verifies the checksum of a `.gz`
            raise ValueError("it is longer than its header says")


@contextmanager
def _open_matrix(path: Path) -> Iterator[tuple[BufferedIOBase, np.dtype, tuple[int, ...]]]:
    """Open a file and read its header; yield the stream, and the dtype and shape of the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            magic, num_dims = np.frombuffer(_read(stream, 8), "<i4").tolist()
            if magic not in MAGIC or not 1 <= num_dims <= 8:
                raise ValueError("its magic number is wrong")
            sizes = np.frombuffer(_read(stream, 4 * max(num_dims, 3)), "<i4")[:num_dims].tolist()
            if min(sizes) < 1:
                raise ValueError(f"its header has the shape {tuple(sizes)}")
            yield stream, MAGIC[magic], tuple(sizes)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is not a complete SmallNORB file ({error}); get it again") from error


def _read(stream: BufferedIOBase, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("it is truncated")
    return data


def _locate(root: Path, part: str, kind: str) -> Path:
    name = f"smallnorb-{part}-{kind}.mat"
    path = next((root / each for each in (name, f"{name}.gz") if (root / each).is_file()), None)
    if path is None:
        raise absent("smallnorb", root, f"{name} nor {name}.gz")
    return path
