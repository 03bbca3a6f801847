"""The diffusion process in closed form: add noise, remove predicted noise, and the posterior of one step.

    z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps,   eps ~ N(0, I)

Solved for z_0 and for eps this gives `predict_z0` and `predict_eps`. Each sample of a batch has its own step.

Reference:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239 (DDPM).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule, gather


class Gaussian(NamedTuple):
    """A normal distribution with independent coordinates; `variance` broadcasts to `mean`."""

    mean: Tensor
    variance: Tensor


def q_sample(schedule: Schedule, z_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Noisy latents z_t (B, ...) of clean latents `z_0` at steps `t` (B,), for standard normal `eps`."""
    signal = gather(schedule.alpha_bar, t, z_0).sqrt()
    noise = gather(schedule.noise_variance, t, z_0).sqrt()
    return signal * z_0 + noise * eps  # DDPM, Eq. (4)


def predict_z0(schedule: Schedule, z_t: Tensor, t: Tensor, eps_hat: Tensor) -> Tensor:
    """The clean latents z0_hat (B, ...) that noisy latents `z_t` at steps `t` (B,) and `eps_hat` imply."""
    signal = gather(schedule.alpha_bar, t, z_t).sqrt()
    noise = gather(schedule.noise_variance, t, z_t).sqrt()
    return (z_t - noise * eps_hat) / signal  # DDPM, Eq. (15)


def predict_eps(schedule: Schedule, z_t: Tensor, t: Tensor, z_0: Tensor) -> Tensor:
    """The noise (B, ...) that leads from clean latents `z_0`, true or predicted, to `z_t` at steps `t`."""
    signal = gather(schedule.alpha_bar, t, z_t).sqrt()
    noise = gather(schedule.noise_variance, t, z_t).sqrt()
    return (z_t - signal * z_0) / noise


def posterior(schedule: Schedule, z_0: Tensor, z_t: Tensor, t: Tensor) -> Gaussian:
    """q(z_{t-1} | z_t, z_0), the reverse step for a known clean latent; DDPM, Eqs. (6) and (7).

    The latents, `z_0` true or predicted, have shape (B, ...), `t` (B,), and the variance (B, 1, ..., 1). At
    t = 0 the posterior is z_0 with variance 0.
    """
    variance = gather(schedule.posterior_variance, t, z_t)
    noise_variance = gather(schedule.noise_variance, t, z_t)
    beta = gather(schedule.beta, t, z_t)
    weight_0 = gather(schedule.alpha_bar_prev, t, z_t).sqrt() * beta / noise_variance
    weight_t = gather(schedule.alpha, t, z_t).sqrt() * variance / beta
    return Gaussian(weight_0 * z_0 + weight_t * z_t, variance)


def sample_integers(first: int, last: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a whole number from `first` to below `last` for each sample of `like` (B, ...), shape (B,) int64.

    It is drawn on the generator's device and then moved to that of `like`, as noise is.
    """
    drawn = torch.randint(first, last, like.shape[:1], generator=generator, device=generator.device)
    return drawn.to(like.device)


def sample_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise with the shape, device and dtype of `like`.

    It is drawn on the generator's device and then moved, so a CPU generator gives the same noise everywhere.
    """
    return sample_noise_shape(like.shape, generator, like.device, like.dtype)


def sample_noise_shape(
    shape: Sequence[int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normal noise of this shape on the generator's device, then move it to `device`."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype).to(device)
