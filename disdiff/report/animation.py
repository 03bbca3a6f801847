"""The animation of a run: each unit that changes the image moves back and forth while the others stay.

It is made from the frames of the sliders, so picture, sliders and animation show the same images.
"""

import math
from pathlib import Path

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from disdiff.editing.unit_names import UnitNames
from disdiff.report.grids import CELL, FAINT, FONT, INK, tile
from disdiff.report.sliders import Frames, label_amount, name_unit
from ldm.files import atomic_path

ANIMATION = "traversal.gif"
FARTHEST = 2.0  # in standard deviations; the sliders go further
COLUMNS = 5
MILLISECONDS = 350  # per frame
COLOURS = 160  # of a frame; a GIF can have 256, and is a quarter larger then
ROUNDS = 2  # of k-means, which fits the colours
GAP, MARGIN, LABEL, CAPTION = 8, 8, 34, 22  # pixels


def save_animation(path: str | Path, frames: Frames, names: UnitNames) -> None:
    """Write an animated GIF of the units that change the picture, each with its name.

    Args:
        path: output path.
        frames: the frames of a run, of which the first image is shown.
        names: names of the run's units.
    """
    order = [i for i, amount in enumerate(frames.amounts) if abs(amount) <= FARTHEST]
    there_and_back = order + order[-2:0:-1]
    drawn = [draw(frames, column, names) for column in there_and_back]
    pictures = [picture.quantize(COLOURS, kmeans=ROUNDS, dither=Image.Dither.NONE) for picture in drawn]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary, "GIF", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0
        )


def draw(frames: Frames, column: int, names: UnitNames) -> Image.Image:
    """One frame of the animation: the units at the position of a column of the sheet."""
    large, small = (ImageFont.truetype(findfont(FONT), size) for size in (12, 11))
    rows = [row for row in range(len(frames.units)) if row not in frames.faint]
    side = frames.images.shape[-1]
    side *= max(1, CELL // side)
    across = min(COLUMNS, len(rows))
    height = LABEL + side + GAP
    size = (2 * MARGIN + across * (side + GAP) - GAP, math.ceil(len(rows) / across) * height + CAPTION)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        x, y = MARGIN + i % across * (side + GAP), i // across * height
        image = Image.fromarray(tile(frames.images[row, column, :1][None]))
        canvas.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y + LABEL))
        unit, _, factors = name_unit(frames.units[row], names).partition(" · ")
        pen.text((x, y + 3), unit, INK, large)
        pen.text((x, y + 18), shorten(factors, side, small), FAINT, small)
    where = f"{label_amount(frames.amounts[column])}, the other units fixed"
    pen.text((MARGIN, size[1] - CAPTION + 2), where, FAINT, small)
    return canvas


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text, cut so that it fits `width` pixels."""
    cut = text
    while cut and font.getlength(cut + "…" * (cut != text)) > width:
        cut = cut[:-1]
    return cut if cut == text else cut.rstrip() + "…"
