"""Edits of an image's code: move a unit towards its value in another image, or along its direction.

toward:  code_k <- code_k + strength * (code_other_k - code_k)
by:      code_k <- code_k + by * std_k * axis_k        (principal direction of the data, `Directions`)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from disdiff.editing.image_input import Images
from disdiff.editing.units import Directions
from ldm.errors import UserError
from ldm.numbers import FINITE, FRACTION


@dataclass(frozen=True)
class Edit:
    """One change of an image's code.

    Attributes:
        unit: index, or the name that evaluation or discovery gave; see `Model.find_units`.
        toward: image from which the unit's code is taken.
        strength: fraction of the way to the code of `toward`, from 0 to 1.
        by: instead of `toward`, the number of standard deviations to move along the unit's principal
            direction.
    """

    unit: int | str
    toward: Images | None = None
    strength: float = 1.0
    by: float | None = None

    def choose(self, units: list[int]) -> list[int]:
        """Select the units to change among those that the name matches: all for `toward`, the first for `by`.

        Raises:
            UserError: the edit has neither or both of `toward` and `by`, or a number is out of range.
        """
        FRACTION.check("strength", self.strength)
        if self.by is not None:
            FINITE.check("by", self.by)
        if (self.toward is None) == (self.by is None):
            raise UserError(
                f"the edit of unit {self.unit} needs exactly one of toward (an image) and by (a number)"
            )
        return units if self.by is None else units[:1]

    def apply(
        self, codes: Tensor, units: list[int], other: Tensor | None, directions: Directions | None
    ) -> Tensor:
        """Codes (B, N, D) after the edit.

        Args:
            codes: codes before the edit, shape (B, N, D).
            units: units to change.
            other: codes of `toward`, shape (B, N, D) or (1, N, D).
            directions: principal directions of the units, for `by`.
        """
        codes = codes.clone()
        if other is not None:
            other = repeat(other, len(codes))
            codes[:, units] = torch.lerp(codes[:, units], other[:, units], float(self.strength))
        elif directions is not None:
            codes[:, units] += float(self.by) * directions.std[units, None] * directions.axis[units]
        return codes


@dataclass(frozen=True)
class Edited:
    """The result of an edit.

    Attributes:
        images: edited images, shape (B, C, H, W) in [-1, 1].
        reconstructed: images sampled from the unedited codes, which show the error of inversion alone.
        codes: codes after the edit, shape (B, N, D).
        codes_before: codes before the edit, shape (B, N, D).
        units: units that were changed.
    """

    images: Tensor
    reconstructed: Tensor
    codes: Tensor
    codes_before: Tensor
    units: list[int]


def repeat(rows: Tensor, count: int) -> Tensor:
    """Return `rows` if there are `count` of them, or repeat a single row `count` times.

    Raises:
        UserError: the number of rows is neither `count` nor 1.
    """
    if len(rows) not in (1, count):
        raise UserError(f"expected {count} images, got {len(rows)}; give {count} or a single one")
    return rows if len(rows) == count else rows.repeat(count, *[1] * (rows.ndim - 1))
