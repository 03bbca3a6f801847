"""Reader of Shapes3D: 480,000 images 64x64x3 of a room with one object, the full grid of six factors.

Two formats are read: `3dshapes.h5` (`images` uint8 (n, 64, 64, 3), `labels` float64 (n, 6)) and
`3dshapes.npz` (`images`, optionally `labels`). In a full file the position determines the factors, the last
factor fastest, and labels are only checked. Files with fewer images, as `disdiff data` writes them, need
labels.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.data.archives import RowFormat, create_h5, h5_rows, npz_array, npz_rows, open_h5
from ldm.data.arrays import Progress, gather, silent
from ldm.data.contents import digest_rows
from ldm.data.factor_space import FactorSpace
from ldm.data.source import ImageSource
from ldm.errors import UserError

SHAPES3D = FactorSpace(
    names=("floor hue", "wall hue", "object hue", "scale", "shape", "orientation"),
    sizes=(10, 10, 10, 8, 4, 15),
)
_HUES = tuple(hue / 10 for hue in range(10))
FACTOR_VALUES: dict[str, tuple[float, ...]] = {
    "floor hue": _HUES,
    "wall hue": _HUES,
    "object hue": _HUES,
    "scale": tuple(np.linspace(0.75, 1.25, 8).tolist()),
    "shape": (0.0, 1.0, 2.0, 3.0),  # cube, cylinder, sphere, capsule
    "orientation": tuple(np.linspace(-30, 30, 15).tolist()),  # degrees
}
IMAGES = RowFormat("images", (64, 64, 3), np.uint8)
LABEL_TOLERANCE = 1e-3
WRITE_BATCH = 1024


class Shapes3D:
    """An `ImageSource` over the files; images are read from disk on access.

    `procedural` is true for files that `disdiff data` rendered; they have this attribute.
    """

    name = "shapes3d"
    image_size = 64
    channels = 3
    factor_space = SHAPES3D

    def __init__(self, root: str | Path, progress: Progress = silent) -> None:
        """Open `<root>/3dshapes.h5` or `<root>/3dshapes.npz`.

        `progress` is called with (images done, total images) the first time, while the identity is computed
        and a compressed file is unpacked to `<root>/3dshapes.images.npy` (5.9 GB).

        Raises:
            UserError: the file is missing or damaged, has another shape, or has invalid labels.
        """
        path = find_shapes3d(Path(root))
        if path is None:
            remedy = "`disdiff data shapes3d` explains how to get one"
            raise UserError(f"{root} has neither 3dshapes.h5 nor 3dshapes.npz; {remedy}")
        unpacked = path.with_name("3dshapes.images.npy")
        if path.suffix == ".h5":
            with open_h5(path) as file:
                labels, self.procedural = file["labels"][()], bool(file.attrs.get("procedural", False))
            self._images = h5_rows(path, IMAGES, unpacked, progress)
        else:
            labels, self.procedural = npz_array(path, "labels"), False
            self._images = npz_rows(path, IMAGES, unpacked, progress)
        self._combination = _combinations(path, labels, len(self._images))
        self.identity = self._compute_identity(progress)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, 64, 64) uint8."""
        return gather(self._images, index).permute(0, 3, 1, 2).contiguous()

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, 6) int64."""
        return SHAPES3D.factors(gather(self._combination, index))

    def _compute_identity(self, progress: Progress) -> str:
        digest = hashlib.sha256(self._combination.numpy().tobytes())
        digest.update(digest_rows(self._images, progress).encode())
        kind = "procedural-" if self.procedural else ""
        return f"{self.name}-{kind}{len(self)}-{digest.hexdigest()[:16]}"


def find_shapes3d(root: Path) -> Path | None:
    """The file `Shapes3D(root)` opens: 3dshapes.h5, else 3dshapes.npz, else None."""
    candidates = (root / "3dshapes.h5", root / "3dshapes.npz")
    return next((path for path in candidates if path.is_file()), None)


def factors_to_labels(factors: Tensor) -> np.ndarray:
    """Convert factors (n, 6) int64 to the label values of the files, shape (n, 6) float64."""
    values = [np.array(FACTOR_VALUES[name]) for name in SHAPES3D.names]
    return np.stack(
        [levels[column] for levels, column in zip(values, factors.numpy().T, strict=True)], axis=1
    )


def labels_to_factors(labels: np.ndarray) -> Tensor:
    """Convert labels (n, 6) to factors (n, 6) int64; the inverse of `factors_to_labels`.

    Raises:
        ValueError: the shape does not fit, or a label is not a value of its factor.
    """
    if labels.ndim != 2 or labels.shape[1] != len(SHAPES3D.sizes) or labels.dtype.kind not in "fiu":
        raise ValueError(f"expected numeric labels of shape (n, 6), got {labels.dtype} {labels.shape}")
    factors = np.empty(labels.shape, np.int64)
    for column, (name, values) in enumerate(FACTOR_VALUES.items()):
        found = labels[:, column]
        levels = np.array(values)
        nearest = np.nan_to_num(np.interp(found, levels, np.arange(len(levels)))).round().astype(np.int64)
        wrong = np.flatnonzero(~(np.abs(levels[nearest] - found) <= LABEL_TOLERANCE))
        if len(wrong):
            raise ValueError(f"label {wrong[0]} has {name} {found[wrong[0]]}, which Shapes3D does not have")
        factors[:, column] = nearest
    return torch.from_numpy(factors)


def write_shapes3d(path: Path, source: ImageSource, index: Tensor, progress: Progress = silent) -> None:
    """Write images `index` (n,) of a source with these factors as a Shapes3D `.h5`, uncompressed, atomically.

    `progress` is called with (images done, total images).

    Raises:
        UserError: the file cannot be written.
    """
    with create_h5(path) as file:
        if source.procedural:
            file.attrs["procedural"] = True
        file["labels"] = factors_to_labels(source.factors(index))
        images = file.create_dataset(IMAGES.key, (len(index), *IMAGES.row_shape), IMAGES.dtype)
        for first in range(0, len(index), WRITE_BATCH):
            batch = source.images(index[first : first + WRITE_BATCH])
            images[first : first + len(batch)] = batch.permute(0, 2, 3, 1).numpy()
            progress(first + len(batch), len(index))


def _combinations(path: Path, labels: np.ndarray | None, num_images: int) -> Tensor:
    """Index into the factor grid of every image of the file, shape (num_images,) int64."""
    everything = torch.arange(len(SHAPES3D))
    if labels is None and num_images == len(SHAPES3D):
        return everything
    if labels is None or labels.shape[:1] != (num_images,):
        rows = "no labels" if labels is None else f"{len(np.atleast_1d(labels))} labels"
        raise UserError(f"{path} has {num_images} images and {rows}; one label per image is needed")
    try:
        combinations = SHAPES3D.index(labels_to_factors(labels))
    except ValueError as error:
        raise UserError(f"{path} is not Shapes3D: {error}; get the file again") from error
    if num_images == len(SHAPES3D) and not torch.equal(combinations, everything):
        raise UserError(f"{path}: the labels of the full data set are not in its order; get the file again")
    return combinations
