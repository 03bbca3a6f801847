"""Linear maps between f x f blocks of pixels and latents, which start at the blocks' principal components.

Beside an encoder and a decoder whose last layers start at zero, a first stage begins where a linear one ends
(16 numbers for 8x8 pixels of three colours restore most pictures to 27 dB and more), and the networks learn
what is left. Every latent channel starts with mean 0 and variance 1, uncorrelated with the others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError

LEAST_DEVIATION = 1e-3  # of a component, over the largest one's: what varies less is not blown up further


class LinearBlocks(nn.Module):
    """Blocks to latents (`encode`) and back (`decode`), each a matrix and an offset.

    Args:
        in_channels: of an image.
        factor: f, side of a block in pixels.
        channels: of the latent.

    Raises:
        UserError: a block has fewer numbers than the latent has channels.
    """

    def __init__(self, in_channels: int, factor: int, channels: int) -> None:
        super().__init__()
        numbers = in_channels * factor**2
        if channels > numbers:
            raise UserError(
                f"autoencoder.start=principal: blocks of {factor}x{factor} pixels have {numbers} principal "
                f"components, fewer than network.z_channels={channels}; lower z_channels"
            )
        self.factor = factor
        self.to_latent = nn.Conv2d(numbers, channels, 1)
        self.to_pixels = nn.Conv2d(channels, numbers, 1)

    def encode(self, image: Tensor) -> Tensor:
        """Latents (B, channels, H / f, W / f) of images (B, in_channels, H, W)."""
        return self.to_latent(F.pixel_unshuffle(image, self.factor))

    def decode(self, z_raw: Tensor) -> Tensor:
        """Images of latents; the inverse of `encode`."""
        return F.pixel_shuffle(self.to_pixels(z_raw), self.factor)

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        """Start at the principal components of the blocks of images (n, in_channels, H, W)."""
        blocks = F.pixel_unshuffle(image, self.factor).movedim(1, 0).flatten(1).double()  # (numbers, n)
        mean, channels = blocks.mean(dim=1), self.to_latent.out_channels
        variance, components = torch.linalg.eigh(torch.cov(blocks, correction=0))  # in ascending order
        deviation = variance.flip(0)[:channels].clamp(min=0).sqrt()
        deviation = deviation.clamp(min=LEAST_DEVIATION * deviation[0].clamp(min=LEAST_DEVIATION))
        components = components.flip(1)[:, :channels]
        self.to_latent.weight.copy_((components / deviation).T[..., None, None])
        self.to_latent.bias.copy_(-(components / deviation).T @ mean)
        self.to_pixels.weight.copy_((components * deviation)[..., None, None])
        self.to_pixels.bias.copy_(mean)
