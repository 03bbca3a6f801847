"""The data sets by name: how each is opened, found and, where we can, drawn; one entry adds one.

What must be fetched for them, and from where, is in `sources.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ldm.data.arrays import Progress
from ldm.data.cars3d import FILE, list_mat_files, open_cars3d
from ldm.data.celeba import find_celeba, open_celeba
from ldm.data.dsprites import find_dsprites, open_dsprites
from ldm.data.files import absent, find_first
from ldm.data.image_folder import ATTRIBUTES, FolderStore, match_attributes, read_attributes
from ldm.data.lmdb_store import LmdbStore, find_lmdb
from ldm.data.mpi3d import VARIANTS, find_mpi3d, open_mpi3d
from ldm.data.pictures import Pictures, Preparation
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.procedural_dsprites import ProceduralDSprites
from ldm.data.shapes3d import Shapes3D, find_shapes3d
from ldm.data.smallnorb import find_smallnorb, open_smallnorb
from ldm.data.source import ImageSource
from ldm.errors import UserError, choose


@dataclass
class DataOptions:
    """What a data set can be asked for; the attributes are the keys of the configuration's section `data`."""

    name: str
    root: str
    procedural: str = "auto"
    image_size: int | None = None
    crop: str | None = None
    corrupt: str = "stop"
    attributes: str | None = None
    partition: str = "all"
    antialias: bool = False


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        open: (options, progress of the first opening) to the images.
        find: what lies in a folder, or None.
        draw: options to the procedural stand-in; None where there is none.
        pictures: the crop and size of encoded pictures; None for arrays, whose images have one size.
    """

    open: Callable[[DataOptions, Progress | None], ImageSource]
    find: Callable[[Path], Path | None]
    draw: Callable[[DataOptions], ImageSource] | None = None
    pictures: tuple[str, int] | None = None


def open_pictures(options: DataOptions, progress: Progress | None = None) -> Pictures:
    """A folder of pictures, or an LMDB where one lies there.

    Raises:
        UserError: there is neither, or its content is bad.
    """
    root, preparation = Path(options.root), prepare(options)
    database = find_lmdb(root) if root.exists() else None
    if database is not None:
        if options.attributes:
            raise UserError("data.attributes is for folders of pictures, not for an LMDB; leave it out")
        return Pictures(
            options.name, LmdbStore(database, preparation.size), preparation, options.corrupt, None, progress
        )
    if options.name != "folder" and not root.is_dir():
        raise absent(options.name, root, "pictures nor an LMDB")
    skip = options.corrupt == "skip"
    store, attributes = FolderStore(root, skip), None
    path = options.attributes or (root / ATTRIBUTES if (root / ATTRIBUTES).is_file() else None)
    if path is not None:
        names, table = read_attributes(path)
        attributes = names, match_attributes(path, store, table, skip)
    return Pictures(options.name, store, preparation, options.corrupt, attributes, progress)


def find_pictures(root: Path) -> Path | None:
    """An LMDB or a folder with something in it."""
    if not root.exists():
        return None
    return find_lmdb(root) or (root if any(each.name[0] != "." for each in root.iterdir()) else None)


def prepare(options: DataOptions) -> Preparation:
    """Crop and size of pictures: as asked for, else those of the data set."""
    _, size = DATA_SETS[options.name].pictures
    return Preparation(choose_crop(options.name, options.crop), options.image_size or size)


def choose_crop(name: str, crop: str | None) -> str:
    """The crop of a data set's pictures: as asked for, else its own; `center` for what comes as arrays.

    Raises:
        UserError: there is no data set of that name.
    """
    own = choose("data.name", name, DATA_SETS).pictures
    return crop or (own[0] if own else "center")


def _celeba(options: DataOptions, progress: Progress | None) -> Pictures:
    return open_celeba(options.root, prepare(options), options.partition, options.corrupt, progress)


def _find_cars3d(root: Path) -> Path | None:
    return next(iter(list_mat_files(root)), None) or find_first(root, [FILE])


DATA_SETS = {
    "shapes3d": DataSet(
        lambda options, progress: Shapes3D(options.root, progress),
        find_shapes3d,
        lambda _: ProceduralShapes3D(),
    ),
    "cars3d": DataSet(lambda options, progress: open_cars3d(options.root, progress), _find_cars3d),
    **{
        variant: DataSet(
            lambda options, progress: open_mpi3d(options.name, options.root, progress),
            partial(find_mpi3d, variant),
        )
        for variant in VARIANTS
    },
    "dsprites": DataSet(
        lambda options, progress: open_dsprites(options.root, progress),
        find_dsprites,
        lambda options: ProceduralDSprites(options.antialias),
    ),
    "smallnorb": DataSet(lambda options, progress: open_smallnorb(options.root, progress), find_smallnorb),
    "celeba": DataSet(_celeba, find_celeba, pictures=("d2c128", 64)),
    "ffhq": DataSet(open_pictures, find_pictures, pictures=("center", 128)),
    "bedroom": DataSet(open_pictures, find_pictures, pictures=("center", 128)),
    "horse": DataSet(open_pictures, find_pictures, pictures=("center", 128)),
    "folder": DataSet(open_pictures, find_pictures, pictures=("center", 64)),
}


def open_data(options: DataOptions, progress: Progress | None = None) -> ImageSource:
    """The images of a data set: its files, or its procedural stand-in.

    Args:
        options: which, and how.
        progress: told (images done, images in all) where the first opening takes long.

    Raises:
        UserError: the data set or an option is unknown or does not fit it, or its files are missing where
            they must not be, or damaged.
    """
    data_set = choose("data.name", options.name, DATA_SETS)
    choose("data.procedural", options.procedural, {"auto": None, "always": None, "never": None})
    check_options(options, data_set)
    if options.procedural != "never" and data_set.draw is not None:
        if options.procedural == "always" or data_set.find(Path(options.root)) is None:
            check_given(options)
            return data_set.draw(options)
    elif options.procedural == "always":
        drawn = ", ".join(name for name, each in DATA_SETS.items() if each.draw)
        raise UserError(f"there is no procedural {options.name}; data.procedural=always is for {drawn}")
    return data_set.open(options, progress)


def check_given(options: DataOptions) -> None:
    """Refuse to draw a data set whose files were said to lie in a folder that is not there.

    Raises:
        UserError: `data.root` is none of the shipped ones, and no folder, and `data.procedural=auto`.
    """
    root, shipped = Path(options.root), {Path("data") / name for name in DATA_SETS}
    if options.procedural == "auto" and root not in shipped and not root.is_dir():
        raise UserError(
            f"data.root={options.root} is no folder; correct it, or draw {options.name} with "
            "data.procedural=always"
        )


def check_options(options: DataOptions, data_set: DataSet) -> None:
    """Refuse options that a data set cannot heed.

    Raises:
        UserError: naming the option.
    """
    for key in ("image_size", "crop", "attributes"):
        if getattr(options, key) is not None and data_set.pictures is None:
            raise UserError(f"data.{key} is for pictures; {options.name} comes as it is: leave it out")
    if options.attributes is not None and options.name == "celeba":
        raise UserError("celeba has attributes of its own; leave data.attributes out")
    if options.partition != "all" and options.name != "celeba":
        raise UserError(f"data.partition is for celeba; leave it out for {options.name}")
    if options.antialias and options.name != "dsprites":
        raise UserError(f"data.antialias is for the procedural dsprites; leave it out for {options.name}")
