"""Registry of the data sets: how to open each, find its files and draw its procedural stand-in, if any.

A new data set is one entry of `DATA_SETS`. Download addresses are in `sources.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ldm.data.arrays import Progress, silent
from ldm.data.cars3d import FILE, list_mat_files, open_cars3d
from ldm.data.celeba import find_celeba, open_celeba
from ldm.data.dsprites import find_dsprites, open_dsprites
from ldm.data.dsprites_variants import VARIANTS as DSPRITES_VARIANTS
from ldm.data.dsprites_variants import VariedSprites
from ldm.data.factor_labels import FACTORS, read_factors
from ldm.data.files import absent, find_first
from ldm.data.glyphs import Glyphs
from ldm.data.image_folder import ATTRIBUTES, FolderStore, match_attributes, read_attributes
from ldm.data.lmdb_store import LmdbStore, find_lmdb
from ldm.data.mpi3d import VARIANTS, find_mpi3d, open_mpi3d
from ldm.data.people_emoji import PeopleEmoji, find_font
from ldm.data.pictures import Pictures, Preparation
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.procedural_dsprites import ProceduralDSprites
from ldm.data.procedural_nonlinear import NonlinearShapes3D
from ldm.data.reduced import ReducedImages
from ldm.data.shapes3d import Shapes3D, find_shapes3d
from ldm.data.smallnorb import find_smallnorb, open_smallnorb
from ldm.data.source import ImageSource
from ldm.errors import UserError, check_option, look_up

LABELS = {"attributes": ATTRIBUTES, "factors": FACTORS}


@dataclass
class DataOptions:
    """Options of opening a data set; the attributes are keys of the configuration's section `data`."""

    name: str
    root: str
    procedural: str = "auto"
    image_size: int | None = None
    crop: str | None = None
    corrupt: str = "stop"
    attributes: str | None = None
    factors: str | None = None
    partition: str = "all"
    antialias: bool = False
    nuisance_seed: int = 0


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        open: (options, progress callback) => the images; None for a data set that is only drawn.
        find: folder => the data set's file or folder in it, or None.
        draw: options => the procedural images; None if there are none.
        pictures: default crop and size for encoded pictures; None for arrays, whose size is fixed.
        folder: name of the default folder in `data/`; None for the data set's own name.
    """

    open: Callable[[DataOptions, Progress], ImageSource] | None
    find: Callable[[Path], Path | None]
    draw: Callable[[DataOptions], ImageSource] | None = None
    pictures: tuple[str, int] | None = None
    folder: str | None = None


def open_pictures(options: DataOptions, progress: Progress = silent) -> Pictures:
    """Open a folder of pictures, or the LMDB in it if there is one.

    Raises:
        UserError: there is neither, or the content is damaged.
    """
    root, preparation, table = Path(options.root), prepare(options), find_labels(options)
    database = find_lmdb(root) if root.exists() else None
    if database is not None:
        if table is not None:
            raise UserError(f"data.{table[0]} needs a folder of pictures, not an LMDB; leave it out")
        return Pictures(
            options.name, LmdbStore(database, preparation.size), preparation, options.corrupt, None, progress
        )
    if options.name != "folder" and not root.is_dir():
        raise absent(options.name, root, "pictures nor an LMDB")
    skip = options.corrupt == "skip"
    store, attributes, factors = FolderStore(root, skip), None, None
    match table:
        case ("attributes", path):
            names, values = read_attributes(path)
            attributes = names, match_attributes(path, store, values, skip)
        case ("factors", path):
            factors = read_factors(path, store, skip)
    return Pictures(options.name, store, preparation, options.corrupt, attributes, progress, factors)


def find_labels(options: DataOptions) -> tuple[str, Path] | None:
    """The file with labels of the pictures, and whether it has `attributes` or `factors`; None without one.

    A file that an option names goes before one that lies in the folder.

    Raises:
        UserError: there are files of both kinds.
    """
    root, named = Path(options.root), {"attributes": options.attributes, "factors": options.factors}
    given = [(kind, Path(path)) for kind, path in named.items() if path]
    lying = [(kind, root / name) for kind, name in LABELS.items() if (root / name).is_file()]
    found = given or lying
    if len(found) > 1:
        raise UserError(
            f"{found[0][1]} and {found[1][1]}: pictures have either attributes or factors; "
            f"{'leave out one' if given else 'name one'} of data.attributes and data.factors"
        )
    return next(iter(found), None)


def find_pictures(root: Path) -> Path | None:
    """The LMDB at `root`, else `root` if it is a folder with visible files, else None."""
    if not root.exists():
        return None
    return find_lmdb(root) or (root if any(each.name[0] != "." for each in root.iterdir()) else None)


def prepare(options: DataOptions) -> Preparation:
    """Crop and size of pictures: those in `options`, else the data set's defaults."""
    _, size = DATA_SETS[options.name].pictures
    return Preparation(choose_crop(options.name, options.crop), options.image_size or size)


def choose_crop(name: str, crop: str | None) -> str:
    """The crop of a data set's pictures: `crop` if given, else its default; `center` for array data sets.

    Raises:
        UserError: the data set is unknown.
    """
    own = look_up("data.name", name, DATA_SETS).pictures
    return crop or (own[0] if own else "center")


def _celeba(options: DataOptions, progress: Progress) -> Pictures:
    return open_celeba(options.root, prepare(options), options.partition, options.corrupt, progress)


def _find_cars3d(root: Path) -> Path | None:
    return next(iter(list_mat_files(root)), None) or find_first(root, [FILE])


def draw_only(draw: Callable[[], ImageSource]) -> DataSet:
    """A data set without files, which is always drawn."""
    return DataSet(None, lambda _: None, lambda _: draw())


def _open_variant(options: DataOptions, progress: Progress) -> VariedSprites:
    return VariedSprites(options.name, open_dsprites(options.root, progress), options.nuisance_seed)


def _draw_variant(options: DataOptions) -> VariedSprites:
    return VariedSprites(options.name, ProceduralDSprites(options.antialias), options.nuisance_seed)


DATA_SETS = {
    "shapes3d": DataSet(
        lambda options, progress: Shapes3D(options.root, progress),
        find_shapes3d,
        lambda _: ProceduralShapes3D(),
    ),
    "shapes3d_nonlinear": draw_only(NonlinearShapes3D),
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
    **{
        variant: DataSet(_open_variant, find_dsprites, _draw_variant, folder="dsprites")
        for variant in DSPRITES_VARIANTS
    },
    "glyphs": draw_only(Glyphs),
    "people_emoji": DataSet(lambda options, _: PeopleEmoji(options.root), find_font),
    "smallnorb": DataSet(lambda options, progress: open_smallnorb(options.root, progress), find_smallnorb),
    "celeba": DataSet(_celeba, find_celeba, pictures=("d2c128", 64)),
    "ffhq": DataSet(open_pictures, find_pictures, pictures=("center", 128)),
    "bedroom": DataSet(open_pictures, find_pictures, pictures=("center", 128)),
    "horse": DataSet(open_pictures, find_pictures, pictures=("center", 128)),
    "folder": DataSet(open_pictures, find_pictures, pictures=("center", 64)),
}


def open_data(options: DataOptions, progress: Progress = silent) -> ImageSource:
    """Open a data set at its own or a smaller size: its files, or its procedural stand-in.

    `progress` is called with (images done, total images) if the first opening takes long.

    Raises:
        UserError: the data set or an option is unknown, an option does not apply to the data set, or its
            files are damaged, or missing and cannot be replaced by procedural images.
    """
    data_set = look_up("data.name", options.name, DATA_SETS)
    check_option("data.procedural", options.procedural, ("auto", "always", "never"))
    check_options(options, data_set)
    source = open_or_draw(options, data_set, progress)
    if options.image_size in (None, source.image_size):
        return source
    return ReducedImages(source, options.image_size)


def open_or_draw(options: DataOptions, data_set: DataSet, progress: Progress) -> ImageSource:
    """The files of a data set, or its procedural stand-in; UserError as `open_data`."""
    if options.procedural != "never" and data_set.draw is not None:
        if (
            data_set.open is None
            or options.procedural == "always"
            or data_set.find(Path(options.root)) is None
        ):
            check_given(options)
            return data_set.draw(options)
    elif options.procedural == "always":
        drawn = ", ".join(name for name, each in DATA_SETS.items() if each.draw)
        raise UserError(f"there is no procedural {options.name}; data.procedural=always works with {drawn}")
    if data_set.open is None:
        raise UserError(f"{options.name} has no files, it is always drawn; leave data.procedural=never out")
    return data_set.open(options, progress)


def check_given(options: DataOptions) -> None:
    """Raise UserError if `data.root` was set and does not exist: procedural images must not replace it."""
    root = Path(options.root)
    if options.procedural == "auto" and not is_default(root) and not root.is_dir():
        raise UserError(
            f"data.root={options.root} is not a folder; correct it, or use procedural {options.name} with "
            "data.procedural=always"
        )


def default_root(name: str) -> Path:
    """The default folder of a data set."""
    return Path("data") / (DATA_SETS[name].folder or name)


def is_default(root: Path) -> bool:
    """Whether `data.root` is the default of a data set."""
    return root in map(default_root, DATA_SETS)


def check_options(options: DataOptions, data_set: DataSet) -> None:
    """Raise UserError, naming the option, if an option does not apply to the data set."""
    for key in ("crop", "attributes", "factors"):
        if getattr(options, key) is not None and data_set.pictures is None:
            raise UserError(f"data.{key} only applies to picture files, not to {options.name}; leave it out")
    if options.name == "celeba" and (options.attributes is not None or options.factors is not None):
        raise UserError("celeba has its own attributes; leave data.attributes and data.factors out")
    if options.partition != "all" and options.name != "celeba":
        raise UserError(f"data.partition is only for celeba; leave it out for {options.name}")
    if options.antialias and not options.name.startswith("dsprites"):
        raise UserError(f"data.antialias is only for procedural dsprites; leave it out for {options.name}")
    if options.nuisance_seed and options.name not in DSPRITES_VARIANTS:
        named = " and ".join(DSPRITES_VARIANTS)
        raise UserError(f"data.nuisance_seed is only for {named}; leave it out for {options.name}")
    if data_set.open is None and not is_default(Path(options.root)):
        raise UserError(f"{options.name} is drawn and has no files; leave data.root={options.root} out")
