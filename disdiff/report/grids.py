"""Write labelled grids of images as PNG files, without resampling between pixels."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from torch import Tensor

from ldm.data.source import to_uint8
from ldm.errors import UserError
from ldm.files import atomic_path

CELL = 128  # target side of an image in pixels, reached by an integer factor
GAP, MARGIN = 4, 14  # pixels
DPI = 100
FONT = "DejaVu Sans"
LABEL, SMALL, TITLE = (FontProperties(family=FONT, size=size) for size in (10, 9, 13))
INK, FAINT = "#1b1f24", "#59636e"


def save_grid(
    path: str | Path,
    images: Tensor,
    title: str,
    subtitle: str = "",
    rows: list[str] | None = None,
    columns: list[str] | None = None,
) -> None:
    """Write a grid of images with labels.

    Args:
        path: output path; its suffix selects the format.
        images: shape (R, C, 3, H, W) in [-1, 1].
        title: title of the picture.
        subtitle: data set and run.
        rows: R row labels.
        columns: C column labels.

    Raises:
        UserError: the suffix is not a picture format, or the file cannot be written.
    """
    check_suffix(path)
    num_rows, num_columns = images.shape[:2]
    tiles = resize(images.flatten(0, 1)).unflatten(0, (num_rows, num_columns))
    pitch = tiles.shape[-1] + GAP
    left = MARGIN + (GAP * 2 + max(text_width(label, LABEL) for label in rows) if rows else 0)
    top = MARGIN + 24 + (20 if subtitle else 0) + (22 if columns else 6)
    text = MARGIN + max(text_width(title, TITLE), text_width(subtitle, SMALL))
    width, height = max(left + num_columns * pitch, text) + MARGIN, top + num_rows * pitch + MARGIN

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.figimage(tile(tiles), xo=round(left), yo=MARGIN, origin="upper")

    def write(x: float, y: float, label: str, font: FontProperties, color: str = INK, **align: Any) -> None:
        """Draw a text at x, y in pixels from the top left corner."""
        figure.text(x / width, 1 - y / height, label, fontproperties=font, color=color, **align)

    write(MARGIN, MARGIN, title, TITLE, va="top")
    write(MARGIN, MARGIN + 24, subtitle, SMALL, FAINT, va="top")
    for r, label in enumerate(rows or []):
        write(left - 2 * GAP, top + (r + 0.5) * pitch, label, LABEL, ha="right", va="center")
    for c, label in enumerate(columns or []):
        write(left + c * pitch + (pitch - GAP) / 2, top - GAP, label, SMALL, ha="center", va="bottom")
    with atomic_path(path) as temporary, matplotlib.rc_context({"savefig.bbox": None}):
        figure.savefig(temporary, dpi=DPI)


def check_suffix(path: str | Path) -> None:
    """Check that a picture of this name can be written.

    Raises:
        UserError: the suffix is not a picture format.
    """
    formats = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix[1:] not in formats:
        endings = ", ".join(sorted(formats))
        raise UserError(f"{path} has no picture suffix; use .png (or {endings})")


def resize(images: Tensor) -> Tensor:
    """Repeat or average pixels so that images (n, 3, H, W) have sides of about `CELL` pixels."""
    size = images.shape[-1]
    if size > CELL:
        return F.interpolate(images, size=(CELL, CELL), mode="area")
    return images.repeat_interleave(CELL // size, dim=-1).repeat_interleave(CELL // size, dim=-2)


def tile(images: Tensor) -> np.ndarray:
    """Arrange images (R, C, 3, H, W) in [-1, 1] on white, shape (R * (H + GAP) - GAP, ..., 3) uint8."""
    framed = F.pad(images, (0, GAP, 0, GAP), value=1.0)
    canvas = framed.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return to_uint8(canvas[:-GAP, :-GAP]).cpu().numpy()


def text_width(text: str, font: FontProperties) -> float:
    """Width of a line of text in pixels."""
    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()
    return renderer.get_text_width_height_descent(text, font, ismath=False)[0]


def as_grid(images: Tensor) -> Tensor:
    """Arrange images (n, 3, H, W) in a nearly square grid padded with white, shape (R, C, 3, H, W)."""
    columns = min(len(images), int(np.ceil(np.sqrt(1.6 * len(images)))))
    missing = -len(images) % columns
    blank = torch.ones_like(images[:1]).expand(missing, -1, -1, -1)
    return torch.cat([images, blank]).unflatten(0, (-1, columns))
