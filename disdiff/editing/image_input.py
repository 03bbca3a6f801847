"""Convert images (tensors, arrays, PIL pictures, files) to model inputs, and tensors to PIL pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from disdiff.metrics._ranges import check_range
from ldm.data.pictures import describe, prepare_any
from ldm.data.source import ImageSource, to_float, to_uint8
from ldm.errors import UserError
from ldm.files import expand_home

Images: TypeAlias = Tensor | np.ndarray | Image.Image | str | Path | Sequence


def to_images(images: Images, size: int, channels: int = 3, crop: str = "center") -> Tensor:
    """Convert images to a batch.

    Args:
        images: one of the following, or a list of them: a tensor (C, H, W) or (B, C, H, W), float in [-1, 1]
            (with a value below 0, see `check_range`) or uint8 in [0, 255]; a numpy array (H, W, C) or
            (B, H, W, C), uint8; a PIL picture or the path of a picture file, of any size and mode, which is
            prepared like the pictures of a data set (`prepare_any`).
        size: height and width in pixels.
        channels: 3, or 1 for grey images.
        crop: how pictures are made square, one of `ldm.data.pictures.CROPS`.

    Returns:
        Images, shape (B, channels, size, size), float32 in [-1, 1].

    Raises:
        UserError: an image has the wrong type, shape or range.
    """
    if isinstance(images, str | Path):
        return _from_file(images, size, channels, crop)
    if isinstance(images, Image.Image):
        return _from_picture(images, size, channels, crop)
    if isinstance(images, np.ndarray):
        return _from_array(images, size, channels)
    if isinstance(images, Tensor):
        return _from_tensor(images, size, channels)
    if isinstance(images, list | tuple) and images:
        return torch.cat([to_images(image, size, channels, crop) for image in images])
    raise UserError(
        f"{type(images).__name__} is not an image; give a tensor, a numpy array, a PIL picture, the path of "
        "a picture, or a list of those"
    )


def to_pictures(images: Tensor) -> list[Image.Image]:
    """PIL pictures of images (B, C, H, W) in [-1, 1], C 1 or 3."""
    arrays = to_uint8(images.detach().cpu()).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def _from_file(path: str | Path, size: int, channels: int, crop: str) -> Tensor:
    if not (file := expand_home(path)).exists():
        raise UserError(f"cannot read the picture {path}: there is no such file")
    try:
        with Image.open(file) as picture:
            prepared = prepare_any(picture, crop, size)
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"cannot read the picture {path}: {describe(error)}") from error
    return _from_rgb(prepared, size, channels)


def _from_picture(picture: Image.Image, size: int, channels: int, crop: str) -> Tensor:
    try:
        prepared = prepare_any(picture, crop, size)
    except (ValueError, OSError) as error:  # raised for an open file that is damaged
        raise UserError(f"the picture cannot be used: {describe(error)}") from error
    return _from_rgb(prepared, size, channels)


def _from_rgb(picture: Image.Image, size: int, channels: int) -> Tensor:
    return _from_array(np.array(picture.convert("L") if channels == 1 else picture), size, channels)


def _from_array(array: np.ndarray, size: int, channels: int) -> Tensor:
    if channels == 1 and array.shape[-1:] != (1,):
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-3:] != (size, size, channels):
        raise UserError(
            f"numpy images must be uint8 of shape ({size}, {size}, {channels}) or (B, {size}, {size}, "
            f"{channels}), got {array.dtype} of {array.shape}; convert floats in [0, 1] to uint8, put "
            "channels last, or give a PIL picture, which may have any size"
        )
    if not len(array):
        raise UserError(f"an array of shape {array.shape} holds no image; give at least one image")
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return to_float(tensor.reshape(-1, size, size, channels).permute(0, 3, 1, 2).contiguous())


def _from_tensor(tensor: Tensor, size: int, channels: int) -> Tensor:
    known = tensor.dtype == torch.uint8 or tensor.is_floating_point()
    if (
        not known
        or tensor.is_sparse
        or tensor.ndim not in (3, 4)
        or tuple(tensor.shape[-3:]) != (channels, size, size)
    ):
        raise UserError(
            f"image tensors must be float in [-1, 1] or uint8, of shape ({channels}, {size}, {size}) or "
            f"(B, {channels}, {size}, {size}), got {tensor.dtype} of {tuple(tensor.shape)}; put channels "
            "first, and resize pictures, or give them as PIL pictures"
        )
    if not tensor.numel():
        raise UserError(f"a tensor of shape {tuple(tensor.shape)} holds no image; give at least one image")
    batch = tensor.reshape(-1, channels, size, size).contiguous()
    if batch.dtype == torch.uint8:
        return to_float(batch)
    batch = batch.float()
    check_range(batch.min().item(), batch.max().item(), "an image tensor")
    return batch.clamp(-1, 1)


def load_image(name: str | int, source: ImageSource) -> Tensor:
    """Load an image of the data set by index, or a picture file, shape (1, 3, H, W) in [-1, 1].

    A file is rotated upright, cropped and resized like the pictures of the data set.

    Raises:
        UserError: the index is out of range, or the file is missing or is not a picture.
    """
    if isinstance(name, int) or (name.isdecimal() and not Path(name).exists()):
        if not 0 <= int(name) < len(source):
            raise UserError(f"there is no image {name}; {source.name} has images 0 to {len(source) - 1}")
        return to_float(source.images(torch.tensor([int(name)])))
    return to_images(name, source.image_size, source.channels, getattr(source, "crop", "center"))
