"""Differentiable preprocessing for a CLIP's image tower: resizing and normalisation.

    u = (clamp(resize((image + 1) / 2), 0, 1) - mean) / std        image in [-1, 1]

Size, filter, mean and std are those of the model in open_clip. For square images, as here, open_clip's resize
modes (shortest side and crop, longest side and pad, squash) are the same.

Deviation: open_clip's transform resizes with Pillow. Torch's antialiased bicubic has the same coefficient,
a = -1/2, and differs only by Pillow's rounding to 8 bits. (Kornia's has a = -3/4: up to 10 of 255 away for a
drawn image resized from 64 to 224 pixels.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError, look_up

FILTERS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}  # open_clip's names


class Preprocess(nn.Module):
    """Images => input of an image tower."""

    def __init__(self, size: int, mean: list[float], std: list[float], interpolation: str) -> None:
        """Prepare for inputs of `size` x `size`.

        Raises:
            UserError: the filter is unknown, or mean or std do not have three numbers.
        """
        super().__init__()
        if len(mean) != 3 or len(std) != 3:
            raise UserError(
                f"clip.mean={mean} and clip.std={std} must have three numbers each, one per channel"
            )
        self.size, self.filter = size, look_up("the interpolation of this CLIP", interpolation, FILTERS)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, image: Tensor) -> Tensor:  # image => input of the tower
        """Convert images (B, 3, H, H) in [-1, 1] to the tower's input, shape (B, 3, size, size).

        Raises:
            ValueError: the images are not square.
        """
        if image.shape[-1] != image.shape[-2]:
            raise ValueError(f"expected square images, got {tuple(image.shape)}")
        pixels = (image + 1) / 2
        if image.shape[-1] != self.size:
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size, mode=self.filter, antialias=True, align_corners=False)
        return (pixels.clamp(0, 1) - self.mean[:, None, None]) / self.std[:, None, None]
