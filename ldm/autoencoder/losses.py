"""Loss terms and scores of the autoencoder (VQGAN, arXiv 2012.09841, Eqs. 5 to 7).

    L = pixel + weight_perceptual LPIPS + weight_regulariser (codebook | KL) + lambda weight_gan L_G
    lambda = |grad_last (pixel + weight_perceptual LPIPS)| / (|grad_last L_G| + 1e-4)

Deviation: every term is a mean, over entries or over images. The released KL autoencoder sums the pixel terms
over the CHW entries of an image, so that its KL weight of 1e-6 is 1e-6 / CHW here; Adam ignores the factor.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
from torch import Tensor, nn

from ldm.errors import UserError, check_option, look_up


@dataclass
class AutoencoderLossConfig:
    """Loss terms of the autoencoder; a weight of 0 switches a term off."""

    pixel: str = "l1"  # l1 | l2
    perceptual: str = "lpips"  # lpips | none
    weight_perceptual: float = 1.0
    weight_regulariser: float = 1.0  # weight of the codebook loss or of the KL in nats per image
    weight_gan: float = 0.75
    gan_start: int = 0  # first step with the GAN term
    discriminator: str = "hinge"  # hinge | vanilla
    discriminator_channels: int = 64
    discriminator_layers: int = 3  # stride-2 convolutions

    def __post_init__(self) -> None:
        check_option("loss.pixel", self.pixel, PIXEL_LOSSES)
        check_option("autoencoder.loss.perceptual", self.perceptual, ("lpips", "none"))
        check_option("loss.discriminator", self.discriminator, DISCRIMINATOR_LOSSES)


def pixel_loss(image_hat: Tensor, image: Tensor, kind: str = "l1") -> Tensor:
    """Absolute (`l1`) or squared (`l2`) error, mean over all entries of (B, C, H, W)."""
    return look_up("loss.pixel", kind, PIXEL_LOSSES)(image_hat, image)


def hinge_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Half the sum of relu(1 - real) and relu(1 + fake), each a mean over all logits, any shape."""
    return 0.5 * (F.relu(1.0 - logits_real).mean() + F.relu(1.0 + logits_fake).mean())


def vanilla_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Half the sum of the two cross-entropies in nats, each a mean over all logits, any shape."""
    return 0.5 * (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor, kind: str = "hinge") -> Tensor:
    """Discriminator loss, `hinge` or `vanilla`, mean over all logits; the images must be detached."""
    return look_up("loss.discriminator", kind, DISCRIMINATOR_LOSSES)(logits_real, logits_fake)


def generator_loss(logits_fake: Tensor) -> Tensor:
    """Minus the mean of the reconstructions' logits, any shape."""
    return -logits_fake.mean()


# Limits relative to pixel errors below 1: the KL is hundreds of nats per image, the codebook loss below 1.
LARGEST_KL_WEIGHT = 0.01
LEAST_CODEBOOK_WEIGHT = 0.01


def check_regulariser(kind: str, weight: float) -> None:
    """Check that the weight of the regulariser suits the kind of bottleneck.

    Raises:
        UserError: the weight of the codebook loss (`vq`) is so small that the codebook would collapse to a
            few codes, or that of the KL (`kl`) is so large that latents would carry no information.
    """
    key = f"autoencoder.loss.weight_regulariser={weight:g}"
    if kind == "vq" and weight < LEAST_CODEBOOK_WEIGHT:
        raise UserError(
            f"{key} is too small for autoencoder.kind=vq: the codebook would not be trained; use e.g. 1.0"
        )
    if kind == "kl" and weight > LARGEST_KL_WEIGHT:
        raise UserError(
            f"{key} is too large for autoencoder.kind=kl: latents would be uninformative; use e.g. 1.0e-5"
        )


PIXEL_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}
DISCRIMINATOR_LOSSES = {"hinge": hinge_discriminator_loss, "vanilla": vanilla_discriminator_loss}


def adaptive_weight(nll: Tensor, g_loss: Tensor, last_layer: Tensor, maximum: float = 1e4) -> Tensor:
    """Factor that makes the GAN term's gradient at the last layer as large as the reconstruction's (Eq. 7).

    The losses `nll` and `g_loss`, shape (), are connected to `last_layer`, the weight of the decoder's output
    convolution; both graphs stay usable. The factor is detached, shape (), at most `maximum`.
    """
    (nll_grad,) = torch.autograd.grad(nll, last_layer, retain_graph=True)
    (g_grad,) = torch.autograd.grad(g_loss, last_layer, retain_graph=True)
    return (nll_grad.norm() / (g_grad.norm() + 1e-4)).clamp(0.0, maximum).detach()


def adopt_weight(weight: float, step: int, start: int) -> float:
    """Return `weight` from step `start` on, and 0 before."""
    return weight if step >= start else 0.0


class PatchDiscriminator(nn.Module):
    """taming's PatchGAN discriminator with its initialisation: image (B, C, H, W) => logits (B, 1, h, w)."""

    def __init__(self, in_channels: int, channels: int, num_layers: int) -> None:
        super().__init__()
        self.net = NLayerDiscriminator(in_channels, channels, num_layers).apply(weights_init)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of patches, positive for real; 64 pixels and 3 layers give 6 x 6 of them."""
        return self.net(image)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on the [0, 1] scale, at most 100."""
    return -10.0 * math.log10(max(mse, 1e-10))


def reconstruction_scores(image_hat: Tensor, image: Tensor) -> dict[str, float]:
    """Compare images in [-1, 1], shape (B, C, H, W), on the [0, 1] scale; `image_hat` is clipped first.

    Returns:
        `mse`: mean over all entries; `psnr` in dB: computed from that mean, not averaged over images.
    """
    error = image_hat.clamp(-1.0, 1.0).cpu().double() - image.cpu().double()  # MPS has no float64
    mse = error.div(2.0).square().mean().item()
    return {"mse": mse, "psnr": psnr(mse)}
