"""What a CLIP's image tower wants of an image, as a differentiable function: size and normalisation.

    u = (clamp(resize((image + 1) / 2), 0, 1) - mean) / std        image in [-1, 1]

Size, filter, mean and std are the model's own, as open_clip notes them. Images here are square, and on those
open_clip's ways to fit an image in (shortest side and crop, longest side and pad, squash) are one.

Deviation: the resize is torch's with antialiasing, not kornia's; normalisation is kornia's. Pillow, which
open_clip's transform uses, and torch's antialiased bicubic share the cubic a = -1/2, and differ by Pillow's
rounding to 8 bits alone. Kornia's has a = -3/4, which is up to 10 of 255 away on a drawn image brought from
64 to 224 pixels, and before it shrinks it blurs by a Gaussian.
"""

import torch
import torch.nn.functional as F
from kornia.enhance import normalize
from torch import Tensor, nn

from ldm.errors import UserError, choose

FILTERS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}  # open_clip's names


class Preprocess(nn.Module):
    """From images to the input of an image tower."""

    def __init__(self, size: int, mean: list[float], std: list[float], interpolation: str) -> None:
        """Prepare for inputs of `size` x `size`.

        Raises:
            UserError: the filter is unknown, or mean or std are no three numbers.
        """
        super().__init__()
        if len(mean) != 3 or len(std) != 3:
            raise UserError(
                f"clip.mean={mean} and clip.std={std} must have three numbers each, one a channel"
            )
        self.size, self.filter = size, choose("the interpolation of this CLIP", interpolation, FILTERS)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, image: Tensor) -> Tensor:  # image => input of the tower
        """Input of the tower, shape (B, 3, size, size), of images (B, 3, H, H) in [-1, 1].

        Raises:
            ValueError: the images are not square.
        """
        if image.shape[-1] != image.shape[-2]:
            raise ValueError(f"expected square images, got {tuple(image.shape)}")
        pixels = (image + 1) / 2
        if image.shape[-1] != self.size:
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size, mode=self.filter, antialias=True, align_corners=False)
        return normalize(pixels.clamp(0, 1), self.mean, self.std)
