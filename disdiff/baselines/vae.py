"""beta-VAE (Higgins et al. 2017) and InfoVAE (Zhao et al. 2019, arXiv:1706.02262): one stage, in pixel space.

    L = -log p(x | code) + prior terms (`disdiff.baselines.prior`)

FactorVAE and beta-TCVAE add a term of their own (`disdiff.baselines.total_correlation`). Losses are
summed over pixels and over the code's numbers, averaged over the batch. To compare KL weights across image
and code sizes, use beta_normalised = beta * d / (H W C), where d is the number of numbers in the code.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.baselines.encoders import OUTPUT_SIZE, VAE_HIDDEN, list_vae_channels
from disdiff.method.encoder_input import ImageInput
from disdiff.method.model import Generation, ImageModel, refuse_units


@dataclass
class VAEConfig:
    """A VAE's decoder; the encoder is configured by `trunk` and `code`.

    Attributes:
        likelihood: `bernoulli` for images in [0, 1], or `gaussian` of variance 1 for images in [-1, 1].
        channels: channels of the decoder's finest map.
    """

    likelihood: str = "bernoulli"
    channels: int = 32


class ConvDecoder(nn.Module):
    """Decoder that mirrors the encoder: two linear layers, then 4x4 transposed convolutions of stride 2."""

    def __init__(self, num_numbers: int, channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        widths = [out_channels, *list_vae_channels(channels, int(math.log2(size / OUTPUT_SIZE)))][::-1]
        self.layers = nn.Sequential(
            nn.Linear(num_numbers, VAE_HIDDEN),
            nn.ReLU(),
            nn.Linear(VAE_HIDDEN, widths[0] * OUTPUT_SIZE**2),
            nn.ReLU(),
            nn.Unflatten(1, (widths[0], OUTPUT_SIZE, OUTPUT_SIZE)),
        )
        for i, (previous, width) in enumerate(zip(widths, widths[1:], strict=False)):
            self.layers.append(nn.ConvTranspose2d(previous, width, 4, stride=2, padding=1))
            if i < len(widths) - 2:
                self.layers.append(nn.ReLU())

    def forward(self, code: Tensor) -> Tensor:
        """Logits or means of the images for `code` (B, N, D), shape (B, C, H, W)."""
        return self.layers(code.flatten(1))


class VAENetworks(nn.Module):
    """The trained networks: encoder and decoder."""

    def __init__(self, encoder: nn.Module, decoder: ConvDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class VAE(ImageModel):
    """A VAE; the code alone determines the image, so every z_T is empty."""

    def __init__(self, latent_space: nn.Module, networks: VAENetworks, bernoulli: bool) -> None:
        """Assemble the model; `latent_space` is pixel space."""
        super().__init__(latent_space, networks, ImageInput(latent_space))
        self.bernoulli = bernoulli

    def to_image(self, output: Tensor) -> Tensor:
        """Convert the decoder's output to images in [-1, 1]; not clamped for a Gaussian likelihood."""
        return 2 * output.sigmoid() - 1 if self.bernoulli else output

    def noise_shape(self, image_size: int) -> tuple[int, int, int]:
        """An empty shape, (0, 1, 1)."""
        return 0, 1, 1

    def infer_noise(self, image: Tensor, code: Tensor, num_steps: int) -> Tensor:
        """An empty tensor, shape (B, 0, 1, 1)."""
        return image.new_zeros(len(image), *self.noise_shape(image.shape[-1]))

    def generate(self, code: Tensor, z_T: Tensor, how: Generation) -> Tensor:  # code => image
        """Decode `code` (B, N, D); the sampler is ignored."""
        refuse_units(how.units)
        return self.to_image(self.networks.decoder(code))


def reconstruction_loss(output: Tensor, image: Tensor, bernoulli: bool) -> Tensor:
    """-log p(image | code), summed over pixels and channels, shape (B,).

    Args:
        output: the decoder's output, shape (B, C, H, W).
        image: images in [-1, 1], same shape.
        bernoulli: if true, the cross-entropy of images in [0, 1] in nats; otherwise half the squared error.
    """
    if bernoulli:
        loss = F.binary_cross_entropy_with_logits(output, (image + 1) / 2, reduction="none")
    else:
        loss = 0.5 * (output - image).square()
    return loss.flatten(1).sum(dim=1)


def normalise_beta(beta: float, num_numbers: int, image_shape: torch.Size) -> float:
    """Beta * d / (H W C): the weight of the KL if means are used instead of sums."""
    return beta * num_numbers / math.prod(image_shape[-3:])
