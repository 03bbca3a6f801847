"""Edits of an image's code: units taken from another image, wholly or in part, or moved along a direction.

toward:  code_k <- code_k + strength * (code_other_k - code_k)
by:      code_k <- code_k + by * std_k * axis_k        (principal direction of the data, `Directions`)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from disdiff.editing.image_input import Images
from disdiff.editing.units import Directions
from ldm.errors import UserError
from ldm.numbers import FINITE, SHARE


@dataclass(frozen=True)
class Edit:
    """One change of an image's code.

    Attributes:
        unit: index, or the name that evaluation or discovery gave; see `Model.find_units`.
        toward: image from which the unit's code is taken.
        strength: how far to go there, 0 not at all, 1 all the way.
        by: instead, how many standard deviations to move along the unit's principal direction.
    """

    unit: int | str
    toward: Images | None = None
    strength: float = 1.0
    by: float | None = None

    def choose(self, units: list[int]) -> list[int]:
        """Which of the units that the name means are changed: `toward` all of them, `by` the strongest.

        Raises:
            UserError: the edit says neither or both, or a number in it is out of range.
        """
        SHARE.check("strength", self.strength)
        if self.by is not None:
            FINITE.check("by", self.by)
        if (self.toward is None) == (self.by is None):
            raise UserError(f"the edit of unit {self.unit} needs one of toward (an image) and by (a number)")
        return units if self.by is None else units[:1]

    def apply(
        self, codes: Tensor, units: list[int], other: Tensor | None, directions: Directions | None
    ) -> Tensor:
        """Codes (B, N, D) after the edit.

        Args:
            codes: before it.
            units: that change.
            other: codes of `toward`, shape (B, N, D) or (1, N, D).
            directions: of the data, for `by`.
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
    """An edit's result.

    Attributes:
        images: shape (B, C, H, W) in [-1, 1].
        reconstructed: the same without the edit: what inversion alone costs.
        codes: after the edit, shape (B, N, D).
        codes_before: before it.
        units: that were changed.
    """

    images: Tensor
    reconstructed: Tensor
    codes: Tensor
    codes_before: Tensor
    units: list[int]


def repeat(rows: Tensor, count: int) -> Tensor:
    """`rows` (B, ...) when there are `count` of them; one row `count` times over.

    Raises:
        UserError: there is another number of them.
    """
    if len(rows) not in (1, count):
        raise UserError(f"there are {len(rows)} images for {count}; give one, or as many")
    return rows if len(rows) == count else rows.repeat(count, *[1] * (rows.ndim - 1))
