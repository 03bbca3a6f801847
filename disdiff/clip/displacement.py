"""How far a unit moves the embeddings of images: what discovery looks at.

A unit is moved in one of three ways, always signed so that it grows along its principal direction:
    traverse    from -amount to +amount standard deviations of the data, all else fixed
    swap        its value in another image instead of its own
    field       its gradient field alone is added to the frozen model
The displacement of image i is delta_i = u(after_i) - u(before_i), u the unit embedding of a CLIP.
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
    invert,
    swap_units,
    traverse_code,
)
from disdiff.method.model import ImageModel
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError, choose

Look = Callable[[Tensor], Tensor]
Share = Callable[[float], None]


@dataclass
class Displacements:
    """What moving each of K units does to n images.

    Attributes:
        units: which ones.
        moved: displacements of embeddings, shape (K, n, E).
        before: images before, shape (K, n, 3, H, W).
        after: images after, same shape.
    """

    units: list[int]
    moved: Tensor
    before: Tensor
    after: Tensor


class Mover:
    """Moves units of some images.

    Args:
        model: in eval mode.
        image: shape (n, 3, H, W) in [-1, 1].
        directions: along which each unit varies over the data.
        sampler: gives the number of steps of deterministic DDIM and its inversion.
        amount: of `traverse`, in standard deviations.
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
        self.z_T = in_batches(lambda part, code: invert(model, part, code, steps), image, self.code)

    def decode(self, code: Tensor, units: list[int] | None = None) -> Tensor:
        """Images of codes (n, N, D) and the images' own noise, of all units or some."""
        return in_batches(lambda c, z: decode_code(self.model, c, z, self.sampler, units), code, self.z_T)

    def place(self, unit: int) -> Tensor:
        """Where each image's unit stands along its principal direction, shape (n,)."""
        return (self.code[:, unit] - self.directions.mean[unit]) @ self.directions.axis[unit]

    def traverse(self, unit: int) -> tuple[Tensor, Tensor]:
        """Images with the unit low and high."""
        ends = torch.tensor([-self.amount, self.amount], device=self.code.device)
        low, high = traverse_code(self.code, unit, self.directions, ends).unbind(dim=1)
        return self.decode(low), self.decode(high)

    def swap(self, unit: int) -> tuple[Tensor, Tensor]:
        """Images before and after the unit takes the next image's value; after and before where it falls."""
        if len(self.code) < 2:
            raise UserError("a swap needs two images or more; raise --images")
        swapped = self.decode(swap_units(self.code, self.code.roll(1, dims=0), [unit]))
        own = self.place(unit)
        return self._sign(self.decode(self.code), swapped, own.roll(1) - own)

    def field(self, unit: int) -> tuple[Tensor, Tensor]:
        """Images of the frozen model without and with the unit's field; with and without where it is low."""
        if not self.model.has_unit_fields:
            raise UserError(
                "the units of this system have no gradient fields of their own; use --by traverse"
            )
        return self._sign(self.decode(self.code, []), self.decode(self.code, [unit]), self.place(unit))

    def _sign(self, before: Tensor, after: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
        """The pair in the order in which the unit grows, where `rise` (n,) tells."""
        grows = (rise >= 0)[:, None, None, None]
        return torch.where(grows, before, after), torch.where(grows, after, before)


WAYS = {"traverse": Mover.traverse, "swap": Mover.swap, "field": Mover.field}


def measure_displacements(
    mover: Mover, look: Look, units: list[int], way: str = "traverse", progress: Share | None = None
) -> Displacements:
    """Move units one after the other and look at the images.

    Args:
        mover: of the images.
        look: images (B, 3, H, W) to unit embeddings (B, E).
        units: which ones.
        way: a name in `WAYS`.
        progress: called with the share that is done.

    Raises:
        UserError: the way is unknown, or not one for this model or these images.
    """
    move = choose("--by", way, WAYS)
    moved, before, after = [], [], []
    for done, unit in enumerate(units, start=1):
        pair = move(mover, unit)
        first, second = (in_batches(look, images) for images in pair)
        moved.append((second - first).cpu())
        before.append(pair[0].cpu())
        after.append(pair[1].cpu())
        if progress is not None:
            progress(done / len(units))
    return Displacements(units, torch.stack(moved), torch.stack(before), torch.stack(after))
