"""The identity autoencoder: z_raw is the image itself, for diffusion in pixel space."""

import torch
from torch import Tensor

from ldm.autoencoder.latent_space import Autoencoder, Reconstruction


class IdentityAutoencoder(Autoencoder):
    """Autoencoder of pixel space: downsampling factor 1, no parameters, images are not copied."""

    downsampling_factor = 1
    last_layer = None

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.latent_channels = in_channels

    def encode_statistics(self, image: Tensor) -> Tensor:  # image => z_raw
        """Return the image, shape (B, C, H, W)."""
        return image

    def decode(self, z_raw: Tensor, quantize: bool = True) -> Tensor:  # z_raw => image
        """Return `z_raw`, shape (B, C, H, W); `quantize` is ignored."""
        return z_raw

    def reconstruct(self, image: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Return the image and a regulariser of 0."""
        return Reconstruction(image, image.new_zeros(()))
