"""A text-guided edit: move the unit that discovery named so, and measure what else moves.

Each image's unit goes to the far end of its principal direction, the other units and the noise stay. A probe
trained with labels, for this measurement alone, says which factors it sees before and after: the named one
should differ, every other one should not.
"""

from typing import Any

import torch
from torch import Tensor

from disdiff.classifier import Probe
from disdiff.clip.discovery import NAMED, Finding
from disdiff.clip.displacement import Mover
from disdiff.editing import in_batches, traverse_code
from ldm.errors import UserError


def find_unit(findings: list[Finding], name: str) -> Finding:
    """The unit that carries a name; of several the one of highest score.

    Raises:
        UserError: there is none.
    """
    carriers = [each for each in findings if each.verdict == NAMED and each.name == name]
    if not carriers:
        names = sorted({each.name for each in findings if each.verdict == NAMED})
        told = f"names are: {', '.join(names)}" if names else "no unit has a name"
        raise UserError(f"no unit is named {name!r}; {told}")
    return max(carriers, key=lambda each: each.score)


def move_unit(mover: Mover, unit: int) -> tuple[Tensor, Tensor]:
    """Images as they come back unedited, and with `unit` at its far end, shapes (n, 3, H, W)."""
    ends = torch.tensor([-mover.amount, mover.amount], device=mover.code.device)
    low, high = traverse_code(mover.code, unit, mover.directions, ends).unbind(dim=1)
    far = torch.where((mover.place(unit) < 0)[:, None, None], high, low)
    return mover.decode(mover.code), mover.decode(far)


def judge_edit(
    probe: Probe, before: Tensor, after: Tensor, factor_names: list[str], label: str | None
) -> dict[str, Any]:
    """What a probe sees change between images (n, 3, H, W) and their edits.

    Args:
        probe: of the data set's factors.
        before: unedited.
        after: edited.
        factor_names: of the data set.
        label: the factor that the edit names; None if the data set has none such.

    Returns:
        JSON-ready: the share of images in which each factor is seen to change; of the named one that share
        as `changed`, and of the others the smallest share that stays as `kept_min`, with their `kept_mean`.
    """
    device = next(probe.parameters()).device
    seen = [
        in_batches(lambda part: probe.predict(part.to(device)).cpu(), images) for images in (before, after)
    ]
    shares = (seen[0] != seen[1]).double().mean(dim=0).tolist()
    changes = dict(zip(factor_names, shares, strict=True))
    result: dict[str, Any] = {
        "changes": changes,
        "num_images": len(before),
        "by": "probe trained with labels",
    }
    if label in changes:
        kept = [1 - share for name, share in changes.items() if name != label]
        result |= {"changed": changes[label], "kept_mean": sum(kept) / len(kept), "kept_min": min(kept)}
    return result
