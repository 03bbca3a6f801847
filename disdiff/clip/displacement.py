"""Displacements of image embeddings when a unit is changed, the input of discovery.

There are three ways to change a unit; the sign is such that the unit grows along its principal direction:
    traverse    from -amount to +amount standard deviations of the data, all else fixed
    swap        the unit's value is replaced by that in another image
    field       only the unit's gradient field is added to the frozen model
The displacement of image i is delta_i = u(after_i) - u(before_i), where u is the unit-length CLIP embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from disdiff.editing.units import (
    Directions,
    decode_code,
    deterministic,
    in_batches,
    swap_units,
    traverse_code,
)
from disdiff.method.model import ImageModel
from ldm.data.arrays import silent
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError, look_up

Look = Callable[[Tensor], Tensor]


@dataclass
class Displacements:
    """Effect of changing each of K units on n images.

    Attributes:
        units: numbers of the units.
        moved: displacements of embeddings, shape (K, n, E).
        before: images before, shape (K, n, 3, H, W).
        after: images after, same shape.
    """

    units: list[int]
    moved: Tensor
    before: Tensor
    after: Tensor


class UnitEditor:
    """Changes units of given images.

    Args:
        model: the model, in evaluation mode.
        image: images, shape (n, 3, H, W) in [-1, 1].
        directions: principal direction of each unit over the data.
        sampler: gives the number of steps of deterministic DDIM and of its inversion.
        amount: range of `traverse`, in standard deviations.
    """

    def __init__(
        self,
        model: ImageModel,
        image: Tensor,
        directions: Directions,
        sampler: SamplerConfig,
        amount: float = 2.0,
    ) -> None:
        self.model, self.amount, self.sampler = model, amount, deterministic(sampler)
        self.code = in_batches(model.encode, image)
        self.directions = directions.to(self.code)
        steps = self.sampler.num_steps
        self.z_T = in_batches(lambda part, code: model.infer_noise(part, code, steps), image, self.code)

    def decode(self, code: Tensor, units: list[int] | None = None) -> Tensor:
        """Generate images from codes (n, N, D) and the images' own noise, with all units or some."""
        return in_batches(lambda c, z: decode_code(self.model, c, z, self.sampler, units), code, self.z_T)

    def place(self, unit: int) -> Tensor:
        """Coordinate of each image's unit along its principal direction, shape (n,)."""
        return (self.code[:, unit] - self.directions.mean[unit]) @ self.directions.axis[unit]

    def traverse(self, unit: int) -> tuple[Tensor, Tensor]:
        """Images with a low and a high value of the unit."""
        ends = torch.tensor([-self.amount, self.amount], device=self.code.device)
        low, high = traverse_code(self.code, unit, self.directions, ends).unbind(dim=1)
        return self.decode(low), self.decode(high)

    def swap(self, unit: int) -> tuple[Tensor, Tensor]:
        """Images before and after the unit gets the next image's value, in the order in which it grows."""
        if len(self.code) < 2:
            raise UserError("a swap needs two images or more; raise --images")
        swapped = self.decode(swap_units(self.code, self.code.roll(1, dims=0), [unit]))
        own = self.place(unit)
        return self._sign(self.decode(self.code), swapped, own.roll(1) - own)

    def field(self, unit: int) -> tuple[Tensor, Tensor]:
        """Images without and with the unit's gradient field; in reverse order if the unit's value is low."""
        if not self.model.has_unit_fields:
            raise UserError("the units of this system have no separate gradient fields; use --by traverse")
        return self._sign(self.decode(self.code, []), self.decode(self.code, [unit]), self.place(unit))

    def _sign(self, before: Tensor, after: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
        """The pair in the order in which the unit grows: swapped where `rise` (n,) is negative."""
        grows = (rise >= 0)[:, None, None, None]
        return torch.where(grows, before, after), torch.where(grows, after, before)


WAYS = {"traverse": UnitEditor.traverse, "swap": UnitEditor.swap, "field": UnitEditor.field}


def measure_displacements(
    editor: UnitEditor,
    look: Look,
    units: list[int],
    way: str = "traverse",
    progress: Callable[[float], None] = silent,
) -> Displacements:
    """Change units one after the other, in one of `WAYS`, and embed the images.

    `look` maps images (B, 3, H, W) to unit-length embeddings (B, E); `progress` is called with the completed
    fraction.

    Raises:
        UserError: `way` is unknown, or does not work for this model or these images.
    """
    move = look_up("--by", way, WAYS)
    moved, before, after = [], [], []
    for done, unit in enumerate(units, start=1):
        pair = move(editor, unit)
        first, second = (in_batches(look, images) for images in pair)
        moved.append((second - first).cpu())
        before.append(pair[0].cpu())
        after.append(pair[1].cpu())
        progress(done / len(units))
    return Displacements(units, torch.stack(moved), torch.stack(before), torch.stack(after))
