"""Pillow images of any mode as upright 8-bit RGB.

What the values of a mode mean must be known: 16 bits are reduced to their upper 8 (so are the 12 of some
TIFF), and transparency goes over white. 32-bit integers and floats, whose range a file does not say, are
refused. Colour profiles are not applied.
"""

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

WIDE_FORMATS = ("PNG", "PPM")  # of which Pillow brings more than 8 bits to 0..65535, also in mode I
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2  # values of the last two
LOW_DEPTHS = {"L;2": 85, "L;4": 17}  # raw mode of a PNG, and what Pillow multiplies its values by
REMEDY = "save it with 8 or 16 bits"


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image in mode RGB, turned upright by its EXIF tag.

    Raises:
        ValueError: its values have no defined range.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError(f"it holds signed integers (mode {image.mode}), whose range is unknown; {REMEDY}")
    if image.mode == "F":
        raise ValueError(f"it holds floats (mode F), whose range is unknown; {REMEDY}")
    if image.mode.startswith("I"):
        return _wide_to_rgb(image, tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(PHOTOMETRIC))
    clear = _clear_value(image)  # asked before the pixels are loaded
    image = ImageOps.exif_transpose(image)
    if clear is not None:
        image.info["transparency"] = clear
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _wide_to_rgb(image: Image.Image, bits: int, photometric: int | None) -> Image.Image:
    """An image of one channel of more than 8 bits: I;16 and its kin, and I where the file says its range."""
    if image.mode == "I" and image.format not in WIDE_FORMATS:
        raise ValueError(f"it holds 32-bit integers (mode I), whose range is unknown; {REMEDY}")
    image = ImageOps.exif_transpose(image)
    values, clear = np.asarray(image), image.info.get("transparency")
    grey = (values >> (bits - 8)).astype(np.uint8)
    if photometric == WHITE_IS_ZERO:
        grey = 255 - grey
    if clear is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _clear_value(image: Image.Image) -> int | tuple[int, ...] | None:
    """The transparent value of a PNG in the values of its pixels: Pillow leaves it at the file's depth.

    None where it is right as it is, or there is none.
    """
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # none once the pixels are loaded
    if clear is None or image.format != "PNG" or not tiles:
        return None
    raw = tiles[0].args
    if raw in LOW_DEPTHS:
        return clear * LOW_DEPTHS[raw]
    return tuple(value >> 8 for value in clear) if raw == "RGB;16B" else None
