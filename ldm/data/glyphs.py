"""Glyphs: capital letters in the DejaVu fonts that matplotlib ships, drawn by Pillow.

Eight factors: letter, family (Sans, Serif, Sans Mono), weight (regular, bold), slant (upright, oblique or
italic), hue of the ink, hue of the ground, size and angle. Each combination of family, weight and slant is a
font of its own. With the coverage m of a pixel the image is m ink + (1 - m) ground; ink is dark and ground
light, so a letter shows where their hues are equal, too. Letters are centred by the box around them.
"""

import colorsys
import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldm.data.factor_space import FactorSpace

LETTERS = "ABCHJKMQUVWZ"  # those whose fonts differ clearly at all angles; an oblique I is a turned I
FAMILIES = {"Sans": "Oblique", "Serif": "Italic", "SansMono": "Oblique"}  # names of the slanted fonts
NUM_HUES = 10
CAP_HEIGHTS = tuple(16 * 2 ** (step / 5) for step in range(6))  # of a capital, 16 to 32 pixels
CAP_SHARE = 0.729  # of a font's size; equal for all DejaVu fonts
ANGLES = tuple(range(-45, 46, 15))  # degrees, anticlockwise; a slant is 11 degrees
GLYPHS = FactorSpace(
    ("letter", "family", "weight", "slant", "ink hue", "ground hue", "size", "angle"),
    (len(LETTERS), len(FAMILIES), 2, 2, NUM_HUES, NUM_HUES, len(CAP_HEIGHTS), len(ANGLES)),
)
IMAGE_SIZE = 64
POINTS = 4  # points per pixel and axis


class Glyphs:
    """All images of the glyphs, addressed by index (an `ImageSource`)."""

    name = "glyphs"
    procedural = True
    image_size = IMAGE_SIZE
    channels = 3
    factor_space = GLYPHS
    preparation = "letters in DejaVu fonts, antialiased"

    def __init__(self) -> None:
        digest = hashlib.sha256()
        for font in np.ndindex(*GLYPHS.sizes[1:4]):
            digest.update(font_path(*font).read_bytes())
        self.identity = f"glyphs-procedural-1-{digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(GLYPHS)

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, 8) int64."""
        return GLYPHS.factors(index)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, 64, 64) uint8, on the device of `index`."""
        factors = self.factors(index)
        strokes = factors[:, [0, 1, 2, 3, 6, 7]].tolist()
        cover = torch.stack([draw_cover(*stroke) for stroke in strokes]).to(index.device)[:, None] / 255
        ink, ground = (
            hues(*tones).to(index.device)[factors[:, column], :, None, None]
            for column, tones in ((4, (0.9, 0.5)), (5, (0.3, 1.0)))
        )
        return (255 * (cover * ink + (1 - cover) * ground)).round().to(torch.uint8)


def hues(saturation: float, value: float) -> Tensor:
    """Colours of evenly spaced hues, shape (NUM_HUES, 3) in [0, 1]."""
    return torch.tensor([colorsys.hsv_to_rgb(hue / NUM_HUES, saturation, value) for hue in range(NUM_HUES)])


def font_path(family: int, weight: int, slant: int) -> Path:
    """File of a DejaVu font in matplotlib's folder."""
    import matplotlib  # here, as other data sets do without it

    name = list(FAMILIES)[family]
    style = "Bold" * weight + FAMILIES[name] * slant
    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVu{name}{'-' * bool(style)}{style}.ttf")


@cache  # 6,048 arrays of 4 kB at most
def draw_cover(letter: int, family: int, weight: int, slant: int, size: int, angle: int) -> Tensor:
    """Coverage of each pixel by a letter, shape (64, 64) uint8; the arguments are values of factors."""
    side = IMAGE_SIZE * POINTS
    points = round(CAP_HEIGHTS[size] / CAP_SHARE * POINTS)
    font = ImageFont.truetype(font_path(family, weight, slant), points, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(LETTERS[letter])
    canvas = Image.new("L", (side, side))
    place = (side - left - right) / 2, (side - top - bottom) / 2
    ImageDraw.Draw(canvas).text(place, LETTERS[letter], fill=255, font=font)
    turned = canvas.rotate(ANGLES[angle], Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(turned.reduce(POINTS)).copy())
