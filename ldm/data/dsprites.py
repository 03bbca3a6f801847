"""Reader of dSprites (Matthey et al. 2017): 737,280 binary 64x64 images, the full factor grid, last fastest.

Two formats are read: `.npz` (`imgs` uint8 (n, 64, 64) of 0 and 1, `latents_classes` int64 (n, 6)) and `.hdf5`
(`imgs`, `latents/classes`). Files with fewer images, as `disdiff data` writes them, need the classes. The
colour has only one value and is not a factor. The published `metadata` is a pickle and is not read.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.data.archives import RowFormat, h5_rows, npz_array, npz_keys, npz_rows, open_h5
from ldm.data.arrays import Progress, silent
from ldm.data.factor_space import FactorSpace
from ldm.data.files import find_first, require
from ldm.data.grid import GREY, GridImages
from ldm.errors import UserError

DSPRITES = FactorSpace(("shape", "scale", "orientation", "x", "y"), (3, 6, 40, 32, 32))
STEM = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
FILES = tuple(f"{stem}{suffix}" for stem in (STEM, "dsprites") for suffix in (".npz", ".hdf5", ".h5"))
IMAGES = RowFormat("imgs", (64, 64), np.uint8)
PREPARATION = f"0 and 1 as 0 and 255, {GREY}"


def open_dsprites(root: str | Path, progress: Progress = silent) -> GridImages:
    """Open the first of the `FILES` in a folder.

    `progress` is called with (images done, total images) while a compressed file is unpacked, once.

    Raises:
        UserError: the file is missing or damaged, has another shape, or has invalid classes.
    """
    path = require("dsprites", root, FILES)
    unpacked, procedural = path.with_suffix(".images.npy"), False
    if path.suffix == ".npz":
        rows = npz_rows(path, IMAGES, unpacked, progress)
        classes, procedural = npz_array(path, "latents_classes"), "procedural" in npz_keys(path)
    else:
        with open_h5(path) as file:
            classes = file["latents/classes"][()] if "latents/classes" in file else None
        rows = h5_rows(path, IMAGES, unpacked, progress)
    factors = _read_factors(path, classes, len(rows))
    options: dict[str, Any] = {"gain": 255, "preparation": PREPARATION, "procedural": procedural}
    return GridImages("dsprites", rows, DSPRITES, factors, progress=progress, **options)


def find_dsprites(root: Path) -> Path | None:
    """The file that `open_dsprites` opens, or None."""
    return find_first(root, FILES)


def _read_factors(path: Path, classes: np.ndarray | None, num_images: int) -> Tensor | None:
    """Factors of every image; None for a full file, where the position determines them."""
    full = num_images == len(DSPRITES)
    if classes is None and full:
        return None
    if classes is None or classes.shape != (num_images, 6) or classes.dtype.kind not in "iu":
        raise UserError(f"{path} has {num_images} images but not one row of 6 classes for each; get it again")
    factors = torch.from_numpy(classes[:, 1:].astype(np.int64))
    if bool(((factors < 0) | (factors >= torch.tensor(DSPRITES.sizes))).any()):
        raise UserError(f"{path} has a class that dSprites does not have; get the file again")
    if full:
        if not torch.equal(DSPRITES.index(factors), torch.arange(num_images)):
            raise UserError(f"{path}: the classes of the full data set are not in its order; get it again")
        return None
    return factors
