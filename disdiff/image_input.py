"""Images as people have them (tensors, arrays, PIL pictures, files), as the models read them, and back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.data.pictures import prepare_any
from ldm.data.source import to_float, to_uint8
from ldm.errors import UserError
from ldm.files import expand_home

Images = Tensor | np.ndarray | Image.Image | str | Path | Sequence
SLACK = 1e-3  # by which numbers may leave [-1, 1]


def to_images(images: Images, size: int, channels: int = 3, crop: str = "center") -> Tensor:
    """Images as a batch.

    Args:
        images: one of, or a list of: tensor (C, H, W) or (B, C, H, W), floating in [-1, 1] or uint8 in
            [0, 255]; numpy array (H, W, C) or (B, H, W, C), uint8; PIL picture or path of a picture file of
            any size and mode, which is prepared as the pictures of a data set are (`prepare_any`).
        size: height and width in pixels.
        channels: 3, or 1 for grey images.
        crop: how pictures become square, one of `ldm.data.pictures.CROPS`.

    Returns:
        Shape (B, channels, size, size), float32 in [-1, 1].

    Raises:
        UserError: type, shape or range is another.
    """
    if isinstance(images, str | Path):
        return _from_picture(_open(images), size, channels, crop)
    if isinstance(images, Image.Image):
        return _from_picture(images, size, channels, crop)
    if isinstance(images, np.ndarray):
        return _from_array(images, size, channels)
    if isinstance(images, Tensor):
        return _from_tensor(images, size, channels)
    if isinstance(images, list | tuple) and images:
        return torch.cat([to_images(image, size, channels, crop) for image in images])
    raise UserError(
        f"{type(images).__name__} is no image; give a tensor, a numpy array, a PIL picture, the path of a "
        "picture, or a list of those"
    )


def to_pictures(images: Tensor) -> list[Image.Image]:
    """PIL pictures of images (B, C, H, W) in [-1, 1], C 1 or 3."""
    arrays = to_uint8(images.detach().cpu()).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def _open(path: str | Path) -> Image.Image:
    try:
        with Image.open(expand_home(path)) as file:
            file.load()
            return file
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {path}: {error}") from error


def _from_picture(picture: Image.Image, size: int, channels: int, crop: str) -> Tensor:
    try:
        picture = prepare_any(picture, crop, size)
    except ValueError as error:
        raise UserError(f"the picture cannot be used: {error}") from error
    return _from_array(np.array(picture.convert("L") if channels == 1 else picture), size, channels)


def _from_array(array: np.ndarray, size: int, channels: int) -> Tensor:
    if channels == 1 and array.shape[-1:] != (1,):
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-3:] != (size, size, channels):
        raise UserError(
            f"numpy images are uint8 of shape ({size}, {size}, {channels}) or (B, {size}, {size}, "
            f"{channels}), got {array.dtype} of {array.shape}; PIL pictures may have any size"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return to_float(tensor.reshape(-1, size, size, channels).permute(0, 3, 1, 2).contiguous())


def _from_tensor(tensor: Tensor, size: int, channels: int) -> Tensor:
    known = tensor.dtype == torch.uint8 or tensor.is_floating_point()
    if not known or tensor.ndim not in (3, 4) or tuple(tensor.shape[-3:]) != (channels, size, size):
        raise UserError(
            f"image tensors are floating in [-1, 1] or uint8, of shape ({channels}, {size}, {size}) or "
            f"(B, {channels}, {size}, {size}), got {tensor.dtype} of {tuple(tensor.shape)}"
        )
    batch = tensor.reshape(-1, channels, size, size).contiguous()
    if batch.dtype == torch.uint8:
        return to_float(batch)
    if batch.numel() and not batch.abs().max() <= 1 + SLACK:  # NaN is not at most anything
        raise UserError(
            f"floating images lie in [-1, 1], here are values up to {float(batch.abs().max()):.4g}; "
            "images in [0, 255] are to be uint8"
        )
    return batch.float().clamp(-1, 1)
