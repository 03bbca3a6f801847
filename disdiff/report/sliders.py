"""Interactive traversals: a sheet of frames in the run folder, and one slider per unit in the report.

`frames.json` holds one JPEG sheet with a row per unit, a column per amount, and `num_images` images side by
side in every cell. The page embeds the sheet once; a slider selects the visible part. Units that hardly
change the picture are folded. This is measured on the frames and needs no labels.
"""

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from disdiff.editing.unit_names import UnitNames
from ldm.data.source import to_float, to_uint8
from ldm.errors import UserError
from ldm.files import load_json, save_json

FRAMES = "frames.json"
CELL = 96  # largest side of an image in pixels; a multiple of 8, so that JPEG blocks do not span two images
QUALITY = 90
LEAST_CHANGE = 0.05  # of a unit that is not folded, relative to the unit that changes the picture most


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

    @cached_property
    def images(self) -> Tensor:
        """The frames, shape (K, A, M, 3, h, w) in [-1, 1]: K units, A amounts, M images."""
        sheet = Image.open(io.BytesIO(base64.b64decode(self.sheet))).convert("RGB")
        pixels = to_float(torch.from_numpy(np.array(sheet)))  # (K h, A M w, 3)
        rows = pixels.unflatten(0, (len(self.units), -1))
        cells = rows.unflatten(2, (len(self.amounts), self.num_images, -1))  # (K, h, A, M, w, 3)
        return cells.permute(0, 2, 3, 5, 1, 4)

    @cached_property
    def faint(self) -> list[int]:
        """Rows of the units that hardly change the picture."""
        return (measure_change(self.images) < LEAST_CHANGE).nonzero().flatten().tolist()

    @property
    def says(self) -> str:
        """A sentence that names the units that hardly change the picture; empty if there are none."""
        units = sorted(self.units[row] for row in self.faint)
        if not units:
            return ""
        verb = "unit hardly changes" if len(units) == 1 else "units hardly change"
        return f"{len(units)} {verb} the picture: {', '.join(map(str, units))}"


def measure_change(frames: Tensor) -> Tensor:
    """Change of the picture by each unit, relative to the unit that changes it most, shape (K,) in [0, 1].

    The change is the root mean square of the difference to the mean over the positions of the frames
    (K units, A positions, M images, 3, H, W). If no unit changes anything, all values are 1.
    """
    change = (frames - frames.mean(dim=1, keepdim=True)).square().flatten(1).mean(dim=1).sqrt()
    return change / change.max() if change.any() else torch.ones_like(change)


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
    """Load the frames of a run; None if there are none; UserError if the file is damaged."""
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


def name_unit(unit: int, names: UnitNames) -> str:
    """Name of a unit; its number if the run has no name for it."""
    return names.labels[unit] if unit < len(names.labels) else f"unit {unit}"


def place_sliders(frames: Frames, names: UnitNames) -> list[tuple[int, str, str, bool]]:
    """Per row of the sheet: unit, its name, the initially visible part of the sheet (CSS), whether folded."""
    x, last = 100 * frames.start / (len(frames.amounts) - 1), max(1, len(frames.units) - 1)
    return [
        (unit, name_unit(unit, names), f"{x:.3f}% {100 * row / last:.3f}%", row in frames.faint)
        for row, unit in enumerate(frames.units)
    ]
