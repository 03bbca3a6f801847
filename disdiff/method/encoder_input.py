"""What the factor encoder reads: the image, its latent, features of the frozen denoiser, or (in
`disdiff.clip.guided`) the embedding of a CLIP.

Each kind says how to make it from a clean image, from a latent (clean or predicted: the disentangling loss
encodes z0_hat) and from a training batch.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.source import to_float
from ldm.nn.unet import UNet

FEATURE_STEP = 20  # step at which the denoiser reads a clean latent: nearly no noise


class EncoderInput(nn.Module, ABC):
    """Makes the encoder's input.

    Attributes:
        array: name of the array of a batch that holds the input (or the image it is made from); None where
            the batch's latents are enough.
        fit_batch: inputs computed at once when the initial code is fitted.
        fit_limit: inputs to which it is fitted, at most; None for all there are.
        supervision: what the input was learnt from beside images, for outputs; None if nothing.
    """

    array: str | None = None
    fit_batch: int = 1024
    fit_limit: int | None = None
    supervision: str | None = None

    @abstractmethod
    def from_latent(self, z_0: Tensor) -> Tensor:  # z => input
        """Input of latents (B, C, h, w); gradients reach `z_0`."""

    @abstractmethod
    def from_image(self, image: Tensor) -> Tensor:  # image => input
        """Input of images (B, 3, H, W) in [-1, 1]."""

    def from_batch(self, batch: dict[str, Tensor], z_0: Tensor | None) -> Tensor:
        """Input of a training batch whose clean latents are `z_0` (B, C, h, w)."""
        return self.from_latent(z_0)

    def to_array(self, image: Tensor) -> Tensor | None:
        """What a batch's `array` holds of images (B, 3, H, W) uint8; None where it has none."""
        return None


class ImageInput(EncoderInput):
    """The image itself (published). A predicted latent is decoded without quantisation, which would stop the
    gradient.
    """

    array = "image"

    def __init__(self, latent_space: LatentSpace) -> None:
        super().__init__()
        self._decode = latent_space.decode  # a bound method: the model owns the latent space

    def from_latent(self, z_0: Tensor) -> Tensor:  # z => image
        """Decoded images, shape (B, 3, H, W)."""
        return self._decode(z_0, quantize=False)

    def from_image(self, image: Tensor) -> Tensor:
        """The images."""
        return image

    def from_batch(self, batch: dict[str, Tensor], z_0: Tensor | None) -> Tensor:
        """The batch's images, in [-1, 1]."""
        return to_float(batch["image"])

    def to_array(self, image: Tensor) -> Tensor:
        """The images as they are."""
        return image


class LatentInput(EncoderInput):
    """The latent: spares the first-stage decoder in the disentangling loss."""

    def __init__(self, latent_space: LatentSpace) -> None:
        super().__init__()
        self._encode = latent_space.encode

    def from_latent(self, z_0: Tensor) -> Tensor:
        """The latents."""
        return z_0

    def from_image(self, image: Tensor) -> Tensor:  # image => z
        """Latents of images."""
        return self.from_latent(self._encode(image))


class FeatureInput(LatentInput):
    """The frozen denoiser's coarsest features of the latent: nearer to objects and their pose."""

    def __init__(self, latent_space: LatentSpace, denoiser: UNet) -> None:
        super().__init__(latent_space)
        self._features = denoiser.features

    def from_latent(self, z_0: Tensor) -> Tensor:  # z => features
        """Bottleneck features, shape (B, C', h', w')."""
        t = torch.full((len(z_0),), FEATURE_STEP, device=z_0.device)
        return self._features(z_0, t).bottleneck
