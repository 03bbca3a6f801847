"""Inputs of the factor encoder: the image, its latent, or features of the frozen denoiser.

`disdiff.clip.guided` adds the embedding of a CLIP. Each kind can be computed from a clean image, from a
latent (clean, or predicted: the disentangling loss encodes z0_hat) and from a training batch.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.source import to_float
from ldm.nn.unet import UNet

FEATURE_STEP = 20  # t given to the denoiser with a clean latent: almost no noise


class EncoderInput(nn.Module, ABC):
    """Computes the encoder's input.

    Attributes:
        array: name of the batch's array with the input or its image; None if the batch's latents are enough.
        fit_batch: inputs computed at once when the initial code is fitted.
        fit_limit: largest number of inputs for this fit; None for all.
        supervision: supervision in the input's training besides images, as text for outputs; None for none.
    """

    array: str | None = None
    fit_batch: int = 1024
    fit_limit: int | None = None
    supervision: str | None = None

    @abstractmethod
    def from_latent(self, z_0: Tensor) -> Tensor:  # z => input
        """Input from latents (B, C, h, w); gradients flow to `z_0`."""

    @abstractmethod
    def from_image(self, image: Tensor) -> Tensor:  # image => input
        """Input from images (B, 3, H, W) in [-1, 1]."""

    def from_batch(self, batch: dict[str, Tensor], z_0: Tensor | None) -> Tensor:
        """Input from a training batch with clean latents `z_0` (B, C, h, w)."""
        return self.from_latent(z_0)

    def to_array(self, image: Tensor) -> Tensor | None:
        """Content of the batch's `array` for images (B, 3, H, W) uint8; None if `array` is None."""
        return None


class ImageInput(EncoderInput):
    """The image itself (published); predicted latents are decoded without quantisation, to keep gradients."""

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
        """The images unchanged."""
        return image


class LatentInput(EncoderInput):
    """The latent; the disentangling loss then needs no first-stage decoder."""

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
    """The frozen denoiser's bottleneck features of the latent; they show objects and pose more directly."""

    def __init__(self, latent_space: LatentSpace, denoiser: UNet) -> None:
        super().__init__(latent_space)
        self._features = denoiser.features

    def from_latent(self, z_0: Tensor) -> Tensor:  # z => features
        """Bottleneck features, shape (B, C', h', w')."""
        t = torch.full((len(z_0),), FEATURE_STEP, device=z_0.device)
        return self._features(z_0, t).bottleneck
