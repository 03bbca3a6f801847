"""Select the images on which a CLIP was not trained, according to its training record."""

import torch
from torch import Tensor

from disdiff.clip.tower import ClipDescription
from ldm.data.source import ImageSource, split_indices
from ldm.errors import UserError


def keep_held_out(index: Tensor, source: ImageSource, description: ClipDescription) -> Tensor:
    """Return the images in `index` (n,) on which a CLIP was not trained.

    All images are returned if the CLIP has no record, or was trained on another data set.

    Raises:
        UserError: no image is left.
    """
    record = description.trained_on
    if record is None or record["identity"] != source.identity:
        return index
    trained = torch.zeros(len(source), dtype=torch.bool)
    trained[split_indices(source, record["num_train"], 0)[0]] = True
    kept = index[~trained[index]]
    if not len(kept):
        raise UserError(
            f"the {description.name} was trained on every evaluation image; train one on fewer: "
            "disdiff tiny-clip --num-train 50000"
        )
    return kept
