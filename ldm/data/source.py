"""The interface of image data sets (`ImageSource`), and the split into training and evaluation images.

A reader is any class with these attributes and methods; it needs no base class. Images stay uint8 until a
batch is on its device, where `to_float` maps {0, ..., 255} to [-1, 1] by x / 127.5 - 1.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ldm.data.factor_space import FactorSpace

SPLIT_SEED = 20230531  # seed of the permutation that separates training and evaluation images in every run


class ImageSource(Protocol):
    """A data set, read lazily; can be passed to worker processes.

    Attributes:
        name: the data set's name, for instance "shapes3d".
        procedural: whether the images are rendered by this project instead of read from published files.
        identity: short string that depends on the content, not on the path; stage hashes use it.
        image_size: height and width in pixels.
        channels: channels of an image.
        factor_space: names and sizes of the factors; None for data without factors.
    """

    name: str
    procedural: bool
    identity: str
    image_size: int
    channels: int
    factor_space: FactorSpace | None

    def __len__(self) -> int: ...

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, H, W) uint8."""
        ...

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, F) int64."""
        ...


@runtime_checkable
class AttributeSource(Protocol):
    """Additional interface of an `ImageSource` whose images have named binary attributes.

    Attributes:
        attribute_names: names in the order of the columns; empty without attributes.
    """

    attribute_names: tuple[str, ...]

    def attributes(self, index: Tensor) -> Tensor:
        """Attributes at `index` (n,) int64, shape (n, A) int64 in {0, 1}."""
        ...


def describe_source(source: ImageSource) -> dict[str, Any]:
    """Description of a data set for `metrics.json`, with only the keys that apply to it."""
    facts = {"name": source.name, "procedural": source.procedural, "num_images": len(source)}
    for key in ("preparation", "attribute_names", "attributes_sha256", "factors_sha256", "skipped"):
        value = getattr(source, key, None)
        if value:
            facts[key] = value if isinstance(value, str) else list(value)
    return facts


def identify_labelled(source: ImageSource) -> str:
    """Like `source.identity`, but it also depends on factors that users give beside their images."""
    labels = getattr(source, "factors_sha256", None)
    return f"{source.identity}-{labels}" if labels else source.identity


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images in [0, 255] to float32 in [-1, 1], same shape."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map float images in [-1, 1] to the nearest uint8, same shape; values outside are clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def split_indices(source: ImageSource, num_train: int | None, num_eval: int) -> tuple[Tensor, Tensor]:
    """The training and the evaluation images: the first and the last of one fixed permutation.

    They are disjoint if num_train + num_eval <= len(source). Otherwise, and always if training uses all
    images (`num_train` None), some or all evaluation images are also training images. Numbers above
    len(source) mean all images. Of the source only the length is used.

    Returns:
        Two index tensors, shapes (num_train,) and (num_eval,) int64, in random order.

    Raises:
        ValueError: a number is negative.
    """
    if num_eval < 0 or (num_train is not None and num_train < 0):
        raise ValueError(f"expected numbers of images of 0 or more, got {num_train} and {num_eval}")
    # RandomState, because numpy promises never to change its streams.
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(source)))
    return order[:num_train], order[max(len(order) - num_eval, 0) :]
