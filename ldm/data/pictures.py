"""Image source over picture files or LMDB entries, as square 8-bit RGB images of one size.

A picture is turned upright by its EXIF tag, composited over white if it is transparent, and converted to RGB
(`ldm.data.pixels`); of several frames the first is used. Then one of the `CROPS` and antialiased bicubic
resampling make it square.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ldm.data.arrays import MappedArray, Progress, gather, open_npy, silent, unique_rows
from ldm.data.contents import Contents
from ldm.data.factor_space import FactorLabels
from ldm.data.pixels import to_rgb
from ldm.errors import UserError, check_option, look_up
from ldm.files import load_json, save_json

BICUBIC = Image.Resampling.BICUBIC
CELEBA_SIZE = (178, 218)  # width and height of the aligned and cropped images
NAMED = 3  # number of pictures that a message names
SCAN = ".disdiff-scan.json"


class PictureStore(Protocol):
    """Storage of encoded pictures; can be passed to worker processes.

    Attributes:
        root: folder, for messages and for files that are stored with the pictures.
    """

    root: Path

    @property
    def names(self) -> Sequence[str]:
        """Of the pictures, in order; printable."""
        ...

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why each picture that is there but not in `names` is not, by name."""
        ...

    def read(self, position: int) -> bytes:
        """Bytes of a picture."""
        ...

    def digest(self, positions: Sequence[int], progress: Progress = silent) -> str:
        """Digest of all bytes of some pictures, in order, cached; unreadable pictures have a digest too."""
        ...


def crop_box(image: Image.Image, size: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Crop a fixed box of an aligned CelebA image and resize it.

    Raises:
        ValueError: the image does not have the size of aligned CelebA.
    """
    if image.size != CELEBA_SIZE:
        raise ValueError(f"it has {image.size[0]}x{image.size[1]} pixels, aligned CelebA has 178x218")
    return image.crop(box).resize((size, size), BICUBIC)


BOXES = {  # boxes in aligned CelebA images: left, upper, right, lower
    "d2c128": (25, 57, 153, 185),  # 128 pixels around column 89, row 121
    "center148": (15, 35, 163, 183),
    "center178": (0, 20, 178, 198),
}
CROPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "center": lambda image, size: ImageOps.fit(image, (size, size), BICUBIC),  # the central square
    "squash": lambda image, size: image.resize((size, size), BICUBIC),  # all of it, aspect ratio changed
    "pad": lambda image, size: ImageOps.pad(image, (size, size), BICUBIC),  # all of it, with black bars
    **{name: partial(crop_box, box=box) for name, box in BOXES.items()},
}


@dataclass(frozen=True)
class Preparation:
    """Preparation of a picture: one of the `CROPS`, then resizing to `size` x `size` pixels."""

    crop: str
    size: int

    def __post_init__(self) -> None:
        check_option("data.crop", self.crop, CROPS)

    def __str__(self) -> str:
        return f"crop {self.crop}, {self.size}x{self.size} bicubic, RGB, transparency over white"

    def __call__(self, data: bytes) -> np.ndarray:
        """Decode and prepare the image in a file's bytes, shape (size, size, 3) uint8.

        Raises:
            Exception: the file is damaged; Pillow raises many exception types.
        """
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(self.apply(image))

    def apply(self, image: Image.Image) -> Image.Image:
        """Convert a Pillow image of any size and mode to upright RGB, crop and resize it.

        Raises:
            ValueError: its values have no defined range, or its size does not fit the crop.
        """
        return CROPS[self.crop](to_rgb(image), self.size)


def prepare_any(image: Image.Image, crop: str, size: int) -> Image.Image:
    """Prepare any picture like those of a data set with this crop, to `size` x `size` pixels.

    The boxes of aligned CelebA do not fit pictures of another size; their central square is used instead.

    Raises:
        ValueError: its values have no defined range.
    """
    image = to_rgb(image)
    fits = crop not in BOXES or image.size == CELEBA_SIZE
    return Preparation(crop if fits else "center", size).apply(image)


class Pictures:
    """An `ImageSource` over a store of pictures, which are decoded on access.

    Attributes:
        store: the storage of the pictures.
        preparation: the preparation of a picture, in words.
        skipped: names of pictures that were left out because they cannot be read or have no attributes.
        attribute_names: names of the columns of `attributes`; empty without attributes.
        attributes_sha256: hash of the names and values of the used attributes; None without attributes.
        factor_space: names and sizes of the factors; None without factors.
        factors_sha256: hash of the names and values of the factors of all pictures; None without factors.
        crop: name of the crop, one of `CROPS`.
    """

    procedural = False
    channels = 3

    def __init__(
        self,
        name: str,
        store: PictureStore,
        preparation: Preparation,
        corrupt: str = "stop",
        attributes: tuple[Sequence[str], np.ndarray] | None = None,
        progress: Progress = silent,
        factors: FactorLabels | None = None,
    ) -> None:
        """Use the pictures of a store.

        Args:
            name: the data set's name.
            store: the pictures.
            preparation: crop and size.
            corrupt: `stop` with an error when an unreadable picture is accessed, or read all pictures once
                and `skip` the unreadable ones.
            attributes: names (A,) and values (n, A) in {0, 1}, or None.
            progress: called with (pictures read, total pictures) while new or changed pictures are read.
            factors: of the pictures, or None.

        Raises:
            UserError: there are no pictures, or all are corrupt.
        """
        self.factor_space = None if factors is None else factors.space
        self.factors_sha256 = None if factors is None else factors.sha256
        self._factors = None if factors is None else torch.from_numpy(factors.numbers)
        self.name, self.image_size, self.preparation = name, preparation.size, str(preparation)
        self.crop = preparation.crop
        self.attribute_names = tuple(attributes[0]) if attributes else ()
        self.store, self._prepare = store, preparation
        self._attributes = torch.from_numpy(attributes[1]) if attributes else None
        self._positions = torch.arange(len(store.names))
        self.skipped = tuple(store.left_out)
        if look_up("data.corrupt", corrupt, {"stop": False, "skip": True}):
            bad = self.find_corrupt(progress)
            self.skipped += tuple(bad)
            self._positions = torch.tensor([i for i, each in enumerate(store.names) if each not in bad])
        if not len(self._positions):
            raise UserError(f"{store.root} has no readable pictures; set another folder with data.root")
        self.identity = self._compute_identity(progress)
        self.attributes_sha256 = self._digest_attributes()
        self._prepared = self._open_prepared()

    def __len__(self) -> int:
        return len(self._positions)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, H, W) uint8; UserError if a picture cannot be read."""
        if self._prepared is not None:
            return gather(self._prepared, index)
        rows, inverse = unique_rows(index, len(self))
        images = np.stack([self._read(position) for position in self._positions[rows].tolist()])
        return torch.from_numpy(images[inverse]).permute(0, 3, 1, 2).contiguous()

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, F) int64; F is 0 without factors."""
        if self._factors is None:
            return torch.empty(len(index), 0, dtype=torch.int64)
        return gather(self._factors, gather(self._positions, index))

    def attributes(self, index: Tensor) -> Tensor:
        """Attributes at `index` (n,) int64, shape (n, A) int64 in {0, 1}."""
        if self._attributes is None:
            return torch.empty(len(index), 0, dtype=torch.int64)
        return gather(self._attributes, gather(self._positions, index))

    def find_corrupt(self, progress: Progress = silent) -> dict[str, str]:
        """The reasons, by name, why pictures cannot be read."""
        return find_corrupt(self.store, self._prepare, progress)

    def prepared_path(self) -> Path:
        """File for all prepared images, which `disdiff data` can write."""
        return self.store.root / f".disdiff-{self.identity}.npy"

    def note_prepared(self) -> None:
        """Store the digest of the file at `prepared_path`, without which the file is not used."""
        path, contents = self.prepared_path(), Contents(self.store.root)
        contents.note(f"converted {path.name}", contents.digest_file(path))
        contents.save()

    def _open_prepared(self) -> MappedArray | None:
        path, contents = self.prepared_path(), Contents(self.store.root)
        with suppress(OSError, ValueError):  # missing or incomplete
            array = open_npy(path)
            fits = array.shape == (len(self), 3, self.image_size, self.image_size) and array.dtype == np.uint8
            if fits and contents.noted(f"converted {path.name}") == contents.digest_file(path):
                contents.save()
                return array
        return None

    def _read(self, position: int) -> np.ndarray:
        try:
            return self._prepare(self.store.read(position))
        except UserError:
            raise
        except Exception as error:  # Pillow raises many exception types
            raise UserError(
                f"{self.store.root}: the picture {self.store.names[position]} cannot be read "
                f"({describe(error)}); replace it, or leave such pictures out with data.corrupt=skip"
            ) from error

    def _digest_attributes(self) -> str | None:
        if self._attributes is None:
            return None
        digest = hashlib.sha256("\0".join(self.attribute_names).encode("utf-8", "surrogateescape"))
        digest.update(self.attributes(torch.arange(len(self))).numpy().tobytes())
        return digest.hexdigest()

    def _compute_identity(self, progress: Progress) -> str:
        positions = self._positions.tolist()
        names = [self.store.names[position] for position in positions]
        digest = hashlib.sha256("\0".join([self.preparation, *names]).encode())
        digest.update(self.store.digest(positions, progress).encode())
        return f"{self.name}-{len(self)}-{digest.hexdigest()[:16]}"


def find_corrupt(
    store: PictureStore, preparation: Preparation, progress: Progress = silent
) -> dict[str, str]:
    """Read every picture of a store once; cache the result in `<root>/.disdiff-scan.json` if possible.

    Returns:
        The reasons, by name, why pictures cannot be read.
    """
    content = f"{preparation}{list(store.names)}{store.digest(range(len(store.names)), progress)}"
    path, key = store.root / SCAN, hashlib.sha256(content.encode()).hexdigest()
    with suppress(UserError, TypeError, ValueError, KeyError):
        known = load_json(path)
        if known["key"] == key:
            return dict(known["corrupt"])
    corrupt: dict[str, str] = {}
    for position, name in enumerate(store.names):
        try:
            preparation(store.read(position))
        except Exception as error:  # Pillow raises many exception types
            corrupt[name] = describe(error)
        progress(position + 1, len(store.names))
    with suppress(UserError):  # if the folder cannot be written, it is searched again next time
        save_json(path, {"key": key, "corrupt": corrupt})
    return corrupt


def name_some(names: Sequence[str]) -> str:
    """The first few of `names`, and the number of the others, as text."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def describe(error: Exception) -> str:
    """Pillow's error on one line, without the address of the buffer."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "it is not a picture" if text.startswith("cannot identify image file") else text
