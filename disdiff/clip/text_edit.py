"""A text-guided edit: move the unit that discovery named so, and measure what else moves.

Each image's unit takes the value, among those of the images at hand, that is farthest from its own; the
other units and the noise stay. A value that some image has is one that the decoder knows, however the values
lie (on a circle, for a hue of two numbers). A probe trained with labels, for this measurement alone, says
which factors it sees before and after: the named one should differ, every other one should not.
"""

from typing import Any

import torch
from torch import Tensor

from disdiff.clip.discovery import NAMED, Finding
from disdiff.clip.displacement import Mover
from disdiff.editing.units import in_batches
from disdiff.evaluation.edit_success import agreement, agreement_within_one
from disdiff.evaluation.probe import Probe
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
    """Images as they come back unedited, and with `unit` where it is farthest, shapes (n, 3, H, W).

    Raises:
        UserError: there is only one image.
    """
    if len(mover.code) < 2:
        raise UserError("an edit takes a unit's value from another image; raise --images to 2 or more")
    value, moved = mover.code[:, unit], mover.code.clone()
    moved[:, unit] = value[torch.cdist(value, value).argmax(dim=1)]
    return mover.decode(mover.code), mover.decode(moved)


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
    stays, nearly = agreement(*seen), agreement_within_one(seen[0], seen[1], factor_names)
    changes = dict(zip(factor_names, (1 - stays).tolist(), strict=True))
    result: dict[str, Any] = {
        "changes": changes,
        "num_images": len(before),
        "by": "probe trained with labels",
    }
    if label in changes:
        others = torch.tensor([name != label for name in factor_names])
        result |= {
            "changed": changes[label],
            "kept_mean": stays[others].mean().item(),
            "kept_min": stays[others].min().item(),
            "kept_within_one_mean": nearly[others].mean().item(),
            "kept_within_one_min": nearly[others].min().item(),
        }
    return result
