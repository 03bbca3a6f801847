"""Interactive traversals: a sheet of frames in the run folder, and one slider per unit in the report.

`frames.json` holds one JPEG sheet with a row per unit, a column per amount, and `num_images` images side by
side in every cell. The page embeds the sheet once; a slider selects the visible part.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from disdiff.editing.unit_names import UnitNames
from ldm.data.source import to_uint8
from ldm.errors import UserError
from ldm.files import load_json, save_json

FRAMES = "frames.json"
CELL = 96  # largest side of an image in pixels; a multiple of 8, so that JPEG blocks do not span two images
QUALITY = 90


@dataclass(frozen=True)
class Frames:
    """Content of `frames.json`.

    Attributes:
        units: unit of every row.
        amounts: position of every column, in standard deviations.
        num_images: images side by side in a cell.
        sheet: the JPEG in base64.
    """

    units: list[int]
    amounts: list[float]
    num_images: int
    sheet: str

    @property
    def labels(self) -> list[str]:
        """Labels of the columns."""
        return [label_amount(amount) for amount in self.amounts]

    @property
    def start(self) -> int:
        """Index of the column nearest to the mean."""
        return min(range(len(self.amounts)), key=lambda column: abs(self.amounts[column]))


def save_frames(path: str | Path, frames: Tensor, units: list[int], amounts: tuple[float, ...]) -> None:
    """Write `frames.json`.

    Args:
        path: output path.
        frames: shape (K, A, M, 3, H, W) in [-1, 1]: K units, A amounts, M images.
        units: the K units.
        amounts: the A amounts.
    """
    rows, columns, num_images, *_, size = frames.shape
    tiles = frames.flatten(0, 2)
    if size > CELL:
        tiles = F.interpolate(tiles, size=(CELL, CELL), mode="area")
    sheet = tiles.unflatten(0, (rows, columns * num_images)).permute(0, 3, 1, 4, 2)  # (K, h, A * M, w, 3)
    buffer = io.BytesIO()
    pixels = to_uint8(sheet.flatten(0, 1).flatten(1, 2)).cpu().numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    save_json(path, {"units": units, "amounts": list(amounts), "num_images": num_images, "sheet": encoded})


def load_frames(folder: Path) -> Frames | None:
    """Load the frames of a run; None if there are none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FRAMES
    if not path.exists():
        return None
    try:
        content = load_json(path)
        base64.b64decode(content["sheet"], validate=True)
        units, amounts = [int(unit) for unit in content["units"]], [float(a) for a in content["amounts"]]
        return Frames(units, amounts, int(content["num_images"]), content["sheet"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged; delete it and run disdiff report again") from error


def label_amount(amount: float) -> str:
    """Label of a position along a unit's direction."""
    return f"{amount:+.3g} std" if amount else "mean"


def place_sliders(frames: Frames, names: UnitNames) -> list[tuple[int, str, str]]:
    """Per row of the sheet: unit, name of the unit, and the initially visible part of the sheet (CSS)."""
    x, last = 100 * frames.start / (len(frames.amounts) - 1), max(1, len(frames.units) - 1)
    return [
        (
            unit,
            names.labels[unit] if unit < len(names.labels) else f"unit {unit}",
            f"{x:.3f}% {100 * row / last:.3f}%",
        )
        for row, unit in enumerate(frames.units)
    ]
