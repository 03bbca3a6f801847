"""Reader of CelebA (Liu et al. 2015): 202,599 aligned faces of 178x218 pixels with 40 binary attributes.

The published layout is `img_align_celeba/000001.jpg` and so on, `list_attr_celeba.txt` (a line with the
number of images, a line with the names of the attributes, then per image a row of -1 and 1) and
`list_eval_partition.txt` (image and 0, 1 or 2: training, validation, test). Crops are in `pictures.CROPS`;
DisDiff uses `d2c128`, 128 pixels around column 89 and row 121.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from ldm.data.arrays import Progress, silent
from ldm.data.files import absent
from ldm.data.folder_walk import printable
from ldm.data.image_folder import FolderStore, check_attributes, match_attributes
from ldm.data.pictures import Pictures, Preparation, name_some
from ldm.errors import UserError, look_up

FOLDERS = ("img_align_celeba", "img_align_celeba/img_align_celeba")  # some archives nest them
ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
PARTITIONS = {"all": None, "train": "0", "valid": "1", "test": "2"}


def open_celeba(
    root: str | Path,
    preparation: Preparation,
    partition: str = "all",
    corrupt: str = "stop",
    progress: Progress = silent,
) -> Pictures:
    """Open the published layout in a folder.

    Args:
        root: folder with `img_align_celeba` and the lists.
        preparation: crop and size.
        partition: one of `PARTITIONS`.
        corrupt: as for `Pictures`; with `skip`, images without attributes and rows without images are also
            left out.
        progress: called with (images read, total images) during the search for corrupt images.

    Raises:
        UserError: a file is missing or damaged, or the lists do not fit the images.
    """
    root, skip = Path(root), corrupt == "skip"
    wanted = look_up("data.partition", partition, PARTITIONS)
    folder = find_celeba(root)
    if folder is None:
        raise absent("celeba", root, "img_align_celeba")
    names, table = read_list(root / ATTRIBUTES)
    store = FolderStore(folder, skip)
    if wanted is not None:
        parts = read_partition(root / PARTITION)
        bare = [name for name in store.names if name not in parts]
        if bare and not skip:
            raise UserError(
                f"{root / PARTITION} lacks rows for {len(bare)} images ({name_some(bare)}); get it again, "
                "or leave them out with data.corrupt=skip"
            )
        store.leave_out({name: f"it has no row in {PARTITION}" for name in bare})
        store.select([position for position, name in enumerate(store.names) if parts[name] == wanted])
        table = {name: values for name, values in table.items() if parts.get(name) == wanted}
        if not store.names:
            raise UserError(
                f"{root / PARTITION} has no image of {folder} in {partition}; choose another data.partition"
            )
    values = match_attributes(root / ATTRIBUTES, store, table, skip)
    return Pictures("celeba", store, preparation, corrupt, (names, values), progress)


def find_celeba(root: Path) -> Path | None:
    """The folder with the images, or None."""
    found = (root / folder for folder in reversed(FOLDERS))
    return next((folder for folder in found if folder.is_dir()), None)


def read_list(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read the names of the attributes, and for each image the values (A,) int64 in {0, 1}.

    Raises:
        UserError: the file is missing or truncated, or has a value that is neither -1 nor 1.
    """
    lines = read_rows(path)
    if len(lines) < 2 or lines[0][0] != str(len(lines) - 2):
        says = lines[0][0] if lines else "nothing"
        raise UserError(f"{path} says {says} images but has {max(len(lines) - 2, 0)} rows; get it again")
    _, (first, rest), *rows = lines
    names = [first, *rest]
    return names, check_attributes(path, names, rows)


def read_partition(path: Path) -> dict[str, str]:
    """Read the part of each image: 0, 1 or 2.

    Raises:
        UserError: the file is missing, has an image twice, or has another value.
    """
    rows = [(printable(name), values) for name, values in read_rows(path)]
    wrong = [name for name, values in rows if len(values) != 1 or values[0] not in PARTITIONS.values()]
    if wrong:
        raise UserError(f"{path}: the rows of {name_some(wrong)} need one of 0, 1, 2; get it again")
    parts = {name: value for name, (value,) in rows}
    if len(parts) != len(rows):
        twice = [name for name, count in Counter(name for name, _ in rows).items() if count > 1]
        raise UserError(f"{path} has the image {name_some(twice)} more than once; get it again")
    return parts


def read_rows(path: Path) -> list[tuple[str, list[str]]]:
    """Read the first word and the list of the other words of each line.

    Raises:
        UserError: the file is missing or is not ASCII text.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; get it again") from error
    return [(line.split()[0], line.split()[1:]) for line in lines if line.strip()]
