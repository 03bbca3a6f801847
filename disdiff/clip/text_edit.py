"""Text-guided edits: change the unit that discovery gave a name, and measure which factors change.

In each image the unit gets the value of another given image that is farthest from its own; the other units
and the noise stay the same. Values of real images are used because the decoder was trained on such values,
which may lie on a circle (a hue of two numbers). A probe, trained with labels for this measurement only,
predicts the factors before and after: the named factor should change, the others should not.
"""

from typing import Any

import torch
from torch import Tensor

from disdiff.clip.discovery import NAMED, Finding
from disdiff.clip.displacement import UnitEditor
from disdiff.editing.units import in_batches
from disdiff.evaluation.edit_success import agreement, agreement_within_one
from disdiff.evaluation.probe import Probe
from ldm.errors import UserError


def find_unit(findings: list[Finding], name: str) -> Finding:
    """Return the finding of the unit with a name; of several units, that with the highest score.

    Raises:
        UserError: no unit has this name.
    """
    carriers = [each for each in findings if each.verdict == NAMED and each.name == name]
    if not carriers:
        names = sorted({each.name for each in findings if each.verdict == NAMED})
        told = f"names are: {', '.join(names)}" if names else "no unit has a name"
        raise UserError(f"no unit has the name {name!r}; {told}")
    return max(carriers, key=lambda each: each.score)


def move_unit(editor: UnitEditor, unit: int) -> tuple[Tensor, Tensor]:
    """Return reconstructions without edit, and with `unit` at the farthest value, shapes (n, 3, H, W).

    Raises:
        UserError: there is only one image.
    """
    if len(editor.code) < 2:
        raise UserError("an edit takes a unit's value from another image; raise --images to 2 or more")
    value, moved = editor.code[:, unit], editor.code.clone()
    moved[:, unit] = value[torch.cdist(value, value).argmax(dim=1)]
    return editor.decode(editor.code), editor.decode(moved)


def judge_edit(
    probe: Probe, before: Tensor, after: Tensor, factor_names: list[str], label: str | None
) -> dict[str, Any]:
    """Measure with a probe which factors change between images (n, 3, H, W) and their edits.

    `label` is the edited factor among the names of the data set's factors; None if it is not among them.

    Returns:
        JSON-ready dictionary: `changes`, the share of images in which each factor changes; `changed`, this
        share for the edited factor; `kept_min` and `kept_mean`, the smallest and the mean share of images in
        which the other factors stay the same.
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
