"""Reader of Cars3D (Reed et al. 2015): 17,568 renderings of 183 cars, 4 elevations x 24 azimuths, at 64x64.

Two formats are read: the published folder of one `.mat` per car (`im` uint8 (128, 128, 3, 24, 4): rows,
columns, colour, azimuth, elevation), and an `.npz` with `images` or `imgs` uint8 (17568, 64, 64, 3) in the
order of the factor grid, the last factor fastest. Cars are numbered in the order of their file names.

Deviation: other code numbers the cars in the order in which the file system lists them, which differs
between machines.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from ldm.data.archives import RowFormat, npz_keys, npz_rows, unpack_once
from ldm.data.arrays import Progress, silent
from ldm.data.factor_space import FactorSpace
from ldm.data.files import absent, find_first, require_grid
from ldm.data.grid import GridImages
from ldm.errors import UserError

SPACE = FactorSpace(("elevation", "azimuth", "car"), (4, 24, 183))
SIZE, MAT_SHAPE = 64, (128, 128, 3, 24, 4)
FILE = "cars3d.npz"
FOLDERS = ("cars", "data/cars", ".")  # where the `.mat` files may be, below the root


def open_cars3d(root: str | Path, progress: Progress = silent) -> GridImages:
    """Open the `.mat` files in a folder, resized to 64x64 once, or `<root>/cars3d.npz`.

    `progress` is called with (images done, total images) the first time.

    Raises:
        UserError: files are missing or damaged, or have another shape.
    """
    root = Path(root)
    files = list_mat_files(root)
    unpacked = root / "cars3d.images.npy"
    if not files:
        path = find_first(root, [FILE])
        if path is None:
            raise absent("cars3d", root, f"cars/*.mat nor {FILE}")
        key = next((key for key in npz_keys(path) if key in ("images", "imgs")), "images")
        rows = npz_rows(path, RowFormat(key, (SIZE, SIZE, 3), np.uint8), unpacked, progress)
        require_grid(path, len(rows), [SPACE])
        return GridImages("cars3d", rows, SPACE, progress=progress)
    if len(files) != SPACE.sizes[2]:
        raise UserError(
            f"{files[0].parent} has {len(files)} .mat files, expected {SPACE.sizes[2]}; get the missing ones"
        )
    shape = (len(SPACE), SIZE, SIZE, 3)
    rows = unpack_once(unpacked, files, shape, np.uint8, _in_order(files, progress))
    preparation = "128x128 brought to 64x64 by Lanczos resampling"
    return GridImages("cars3d", rows, SPACE, preparation=preparation, progress=progress)


def list_mat_files(root: Path) -> list[Path]:
    """The visible `.mat` files, sorted by name, in the first of the `FOLDERS` that has any."""
    found = (sorted((root / folder).glob("[!.]*.mat")) for folder in FOLDERS)
    return next((files for files in found if files), [])


def _in_order(files: list[Path], progress: Progress) -> Iterator[np.ndarray]:
    """All images in the order of the factor grid, as one block."""
    cars = np.empty((len(files), 24, 4, SIZE, SIZE, 3), np.uint8)
    for number, path in enumerate(files):
        cars[number] = read_car(path)
        progress((number + 1) * 96, len(files) * 96)
    yield cars.transpose(2, 1, 0, 3, 4, 5).reshape(-1, SIZE, SIZE, 3)


def read_car(path: Path) -> np.ndarray:
    """Images of one car, shape (24 azimuths, 4 elevations, 64, 64, 3) uint8.

    Raises:
        UserError: the file is not a MATLAB file, is truncated, or has another content.
    """
    try:
        image = loadmat(path, variable_names=["im"])["im"]
    except Exception as error:  # scipy raises many exception types for damaged files
        raise UserError(
            f"{path} is not a MATLAB file with an array 'im', or is truncated; get it again"
        ) from error
    if image.shape != MAT_SHAPE or image.dtype != np.uint8:
        raise UserError(
            f"{path}: expected 'im' to be uint8 of shape {MAT_SHAPE}, got {image.dtype} of {image.shape}"
        )
    views = image.transpose(3, 4, 0, 1, 2).reshape(96, *image.shape[:3])
    return np.stack([shrink(view) for view in views]).reshape(24, 4, SIZE, SIZE, 3)


def shrink(image: np.ndarray) -> np.ndarray:
    """Resize an 8-bit image (H, H) or (H, H, 3) to 64x64 by Lanczos resampling."""
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(image)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    )
