"""Reader of MPI3D (Gondal et al. 2019, arXiv:1906.03292): a robot arm with an object, 64x64, the full grid.

One `.npz` per variant has `images` uint8 (n, 64, 64, 3) only; the factors follow from the position, the last
factor fastest. The number of images determines the grid: 1,036,800 images have six colours and six shapes;
the 460,800 images of the first release and of `real_complex` have four of each.
"""

from pathlib import Path

import numpy as np

from ldm.data.archives import RowFormat, npz_rows
from ldm.data.arrays import Progress, silent
from ldm.data.factor_space import FactorSpace
from ldm.data.files import find_first, require, require_grid
from ldm.data.grid import GridImages

NAMES = (
    *("object colour", "object shape", "object size", "camera height"),
    *("background colour", "horizontal axis", "vertical axis"),
)
GRIDS = tuple(FactorSpace(NAMES, (values, values, 2, 3, 3, 40, 40)) for values in (6, 4))
IMAGES = RowFormat("images", (64, 64, 3), np.uint8)
VARIANTS = {  # possible file names of each variant
    "mpi3d_toy": ("mpi3d_toy.npz",),
    "mpi3d_realistic": ("mpi3d_realistic.npz",),
    "mpi3d_real": ("mpi3d_real.npz", "real.npz"),
    "mpi3d_real_complex": ("mpi3d_real_complex.npz", "real3d_complicated_shapes_ordered.npz"),
}


def open_mpi3d(variant: str, root: str | Path, progress: Progress = silent) -> GridImages:
    """Open one of the `VARIANTS` in a folder.

    `progress` is called with (images done, total images) while a compressed file is unpacked, once.

    Raises:
        UserError: the file is missing or damaged, has another shape, or its number of images fits no grid.
    """
    path = require(variant, root, VARIANTS[variant])
    rows = npz_rows(path, IMAGES, path.with_suffix(".images.npy"), progress)
    return GridImages(variant, rows, require_grid(path, len(rows), GRIDS), progress=progress)


def find_mpi3d(variant: str, root: Path) -> Path | None:
    """The file that `open_mpi3d` opens, or None."""
    return find_first(root, VARIANTS[variant])
