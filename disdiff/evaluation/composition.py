"""Whether units compose: swap single units, pairs and all of them, and read the factors of the pictures.

    x^S = the source's picture with the units S of the target's code, from the source's noise

DisDiff (Yang et al. 2023, arXiv:2301.13721) calls its gradient fields separable. At one step the joint field
is the sum of the units' fields by construction. Over all steps it need not be, as every unit's field reads
the latent that the others have changed. So what is measured are finished pictures: whether a factor takes the
target's value as often beside other units as alone, and how far the joint change is from the sum

    residual_S = || d_S - sum_{k in S} d_k || / || d_S ||,   d_S = x^S - x^{}
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import mean

import torch
from torch import Tensor

from disdiff.editing.units import decode_code, in_batches, swap_units
from disdiff.evaluation.edit_success import FactorReader
from ldm.data.arrays import silent
from ldm.errors import UserError

SIZES = ("single", "pair", "all")


@dataclass(frozen=True)
class Swapped:
    """Pictures of swapped sets of units.

    Attributes:
        sets: the sets of units by size, one of `SIZES`.
        images: pictures by set, shape (n, 3, H, W) in [-1, 1]; the empty set is the unedited picture.
    """

    sets: dict[str, list[tuple[int, ...]]]
    images: dict[tuple[int, ...], Tensor]

    def change(self, units: tuple[int, ...]) -> Tensor:
        """What swapping `units` changes in the pictures, shape (n, 3, H, W)."""
        return self.images[units] - self.images[()]

    def sum_changes(self, units: tuple[int, ...]) -> Tensor:
        """Sum of what swapping each of `units` alone changes, shape (n, 3, H, W)."""
        return sum((self.change((k,)) for k in units), torch.zeros_like(self.images[()]))


def list_sets(units: list[int]) -> dict[str, list[tuple[int, ...]]]:
    """Every single unit, every pair and the whole of `units`, by size.

    Raises:
        UserError: there are fewer than two units.
    """
    units = sorted(set(units))
    if len(units) < 2:
        raise UserError(
            f"all factors are assigned to unit {units[0]}, so no units can be combined; give another run"
        )
    return {"single": [(k,) for k in units], "pair": list(combinations(units, 2)), "all": [tuple(units)]}


def swap_sets(
    reader: FactorReader,
    source: Tensor,
    target: Tensor,
    units: list[int],
    progress: Callable[[float], None] = silent,
) -> Swapped:
    """Swap every set of `units` from images `target` into images `source`.

    Args:
        reader: the model with its data and deterministic sampler.
        source: indices of the images to edit, shape (n,).
        target: indices of the images whose units are taken, shape (n,).
        units: the units that are combined.
        progress: called with the completed fraction, from 0 to 1.
    """
    sets = list_sets(units)
    every = list(dict.fromkeys([(), *(each for size in sets.values() for each in size)]))
    code, other = reader.encode(source), reader.encode(target)
    z_T = reader.infer_noise(source, code, silent)
    decode, images = partial(decode_code, reader.model, sampler=reader.sampler), {}
    for i, each in enumerate(every):
        images[each] = in_batches(decode, swap_units(code, other, list(each)), z_T)
        progress((i + 1) / len(every))
    return Swapped(sets, images)


def summarise_composition(
    swapped: Swapped,
    found: dict[tuple[int, ...], Tensor],
    source: Tensor,
    target: Tensor,
    assigned: dict[int, int],
) -> dict[str, dict[str, float | None]]:
    """Compare sets of units with single units.

    Args:
        swapped: the pictures.
        found: factors that were read from the pictures of each set, shape (n, F).
        source: factors of the edited images, shape (n, F).
        target: factors of the images whose units were taken, shape (n, F).
        assigned: the unit of each factor.

    Returns:
        By size of the set, and averaged over sets: `changed`, the rate at which factors of swapped units have
        the target's value, where it differs from the source's; `kept`, the rate at which all other factors
        have the source's value; `residual`, the relative distance of the joint change from the sum of the
        single ones, of sets that change anything. A value that no set gives is null.
    """
    differs = source != target
    rates: dict[str, dict[str, list[float]]] = {
        name: {size: [] for size in SIZES} for name in ("changed", "kept", "residual")
    }
    for size, sets in swapped.sets.items():
        for units in sets:
            for factor, unit in assigned.items():
                if unit not in units:
                    rates["kept"][size] += _rate(found[units][:, factor] == source[:, factor])
                else:
                    rows = differs[:, factor]
                    rates["changed"][size] += _rate((found[units] == target)[rows, factor])
            joint = swapped.change(units)
            if len(units) > 1 and joint.any():
                gap = (joint - swapped.sum_changes(units)).norm() / joint.norm()
                rates["residual"][size].append(gap.item())
    return {
        name: {size: mean(values) if values else None for size, values in by_size.items()}
        for name, by_size in rates.items()
    }


def _rate(hits: Tensor) -> list[float]:
    """The mean of `hits` (n,) as a list; an empty list for none."""
    return [hits.double().mean().item()] if len(hits) else []
