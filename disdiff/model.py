"""DisDiff: a frozen denoiser, a factor encoder and a gradient decoder.

    eps_hat = eps_base + coefficient(t) * sum_k grad_k(z_t, code_k, t)

The gradient enters with one of two coefficients: the training one is the paper's (with the posterior variance
as sigma_t), the sampling one is classifier guidance's. Beyond t = 20 they differ by less than 5 %.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.factor_encoder import FactorEncoder
from disdiff.gradient_decoder import GradientDecoder
from ldm.autoencoder.latent_space import LatentSpace
from ldm.diffusion.schedule import Schedule, gather
from ldm.nn.unet import Features, UNet


def training_coefficient(schedule: Schedule) -> Tensor:
    """-sqrt(alpha_t) (1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t), shape (T,)  # PDAE and DisDiff, L_r."""
    noise_prev = F.pad(schedule.noise_variance[:-1], (1, 0))  # 1 - alpha_bar_{t-1}, to full precision
    return -schedule.alpha.sqrt() * noise_prev / schedule.noise_variance.sqrt()


def sampling_coefficient(schedule: Schedule) -> Tensor:
    """-sqrt(1 - alpha_bar_t), shape (T,)  # score conditioning: Dhariwal & Nichol 2021, Eq. 14."""
    return -schedule.noise_variance.sqrt()


def shift_eps(eps_base: Tensor, coefficient: Tensor, t: Tensor, grad: Tensor) -> Tensor:
    """eps_base + coefficient_t * grad; eps_base and grad (B, C, h, w), coefficient (T,), t (B,)."""
    return eps_base + gather(coefficient, t, eps_base) * grad


@dataclass
class Prediction:
    """What the model says of z_t.

    Attributes:
        eps_base: noise predicted by the frozen denoiser, shape (B, C, h, w).
        grad: gradient field of each unit, shape (B, N, C, h, w).
    """

    eps_base: Tensor
    grad: Tensor


class FactorNetworks(nn.Module):
    """What stage 3 trains: the encoder that finds the code and the decoder that turns it into gradient
    fields.
    """

    def __init__(self, encoder: FactorEncoder, decoder: GradientDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class DisDiff(nn.Module):
    """A latent space, a frozen denoiser in it, and the factor networks on both."""

    def __init__(
        self,
        latent_space: LatentSpace,
        denoiser: UNet,
        schedule: Schedule,
        factors: FactorNetworks,
        reads: str,
    ) -> None:
        """Put the parts together; `reads` says what the encoder looks at, `image` or `z`."""
        super().__init__()
        self.latent_space, self.denoiser, self.schedule = latent_space, denoiser, schedule
        self.factors, self.reads = factors, reads

    @property
    def num_units(self) -> int:
        """N."""
        return self.factors.encoder.num_units

    def encode(self, image: Tensor) -> Tensor:  # image => code
        """Code of `image` (B, 3, H, W) in [-1, 1], shape (B, N, D)."""
        return self.factors.encoder(image if self.reads == "image" else self.latent_space.encode(image))

    def observe(self, z_0: Tensor) -> Tensor:  # z => what the encoder reads
        """What the encoder sees of a predicted latent `z_0` (B, C, h, w).

        A decoded image is not quantised first: quantisation would stop the gradient.
        """
        return z_0 if self.reads == "z" else self.latent_space.decode(z_0, quantize=False)

    def predict(self, z_t: Tensor, t: Tensor, code: Tensor, units: Tensor | None = None) -> Prediction:
        """Frozen noise prediction and the gradient field of each unit.

        Args:
            z_t: noisy latent, shape (B, C, h, w).
            t: diffusion step, shape (B,).
            code: of K units, shape (B, K, D).
            units: which units these are, shape (K,) or (B, K); None for all N.
        """
        eps_base, features = self.predict_base(z_t, t)
        return Prediction(eps_base, self.factors.decoder(features, code, units))

    def predict_base(self, z_t: Tensor, t: Tensor) -> tuple[Tensor, Features]:
        """Noise predicted by the frozen denoiser, shape (B, C, h, w), and its features."""
        with torch.no_grad():  # frozen, and z_t is data: nothing upstream wants a gradient
            features = self.denoiser.features(z_t, t)
            return self.denoiser.decode(features), features
