"""Convert Pillow images of any mode to upright 8-bit RGB.

16-bit values (and the 12-bit values of some TIFF files) are reduced to their upper 8 bits, and transparent
pixels are composited over white. 32-bit integers and floats raise an error, as files do not define their
range. Colour profiles are not applied.
"""

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

WIDE_FORMATS = ("PNG", "PPM")  # Pillow scales their values of more than 8 bits to 0..65535, also in mode I
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2  # values of PHOTOMETRIC and of SAMPLE_FORMAT
LOW_DEPTHS = {"L;2": 85, "L;4": 17}  # raw mode of a PNG: the factor by which Pillow multiplies its values
REMEDY = "save it with 8 or 16 bits"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to RGB and turn it upright by its EXIF tag.

    Raises:
        ValueError: its values have no defined range.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError(f"it has signed integers (mode {image.mode}), whose range is unknown; {REMEDY}")
    if image.mode == "F":
        raise ValueError(f"it has floats (mode F), whose range is unknown; {REMEDY}")
    if image.mode.startswith("I"):
        return _wide_to_rgb(image, tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(PHOTOMETRIC))
    clear = _clear_value(image)  # must be read before the pixels are loaded
    image = ImageOps.exif_transpose(image)
    if clear is not None:
        image.info["transparency"] = clear
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _wide_to_rgb(image: Image.Image, bits: int, photometric: int | None) -> Image.Image:
    """Convert a one-channel image of more than 8 bits: I;16 modes, and I if the format defines the range."""
    if image.mode == "I" and image.format not in WIDE_FORMATS:
        raise ValueError(f"it has 32-bit integers (mode I), whose range is unknown; {REMEDY}")
    image = ImageOps.exif_transpose(image)
    values, clear = np.asarray(image), image.info.get("transparency")
    grey = (values >> (bits - 8)).astype(np.uint8)
    if photometric == WHITE_IS_ZERO:
        grey = 255 - grey
    if clear is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _clear_value(image: Image.Image) -> int | tuple[int, ...] | None:
    """The transparent value of a PNG on the scale of Pillow's pixels; Pillow leaves it at the file's depth.

    None if no conversion is needed, or no value is transparent.
    """
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # missing once the pixels are loaded
    if clear is None or image.format != "PNG" or not tiles:
        return None
    raw = tiles[0].args
    if raw in LOW_DEPTHS:
        return clear * LOW_DEPTHS[raw]
    return tuple(value >> 8 for value in clear) if raw == "RGB;16B" else None
