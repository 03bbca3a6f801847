"""Prior terms of the loss: the InfoVAE objective, shared by the VAEs and the conditional diffusion models.

    maximise   ELBO + zeta MI(x, z) - lambda D(q(z) || p(z))
    minimise   reconstruction + (1 - zeta) KL(q(z | x) || p(z)) + (lambda + zeta - 1) D(q(z) || p(z))

The second line follows from the first; D is a divergence, here the MMD. Special cases:

    zeta = 0, lambda = 1            ELBO: the VAE
    zeta = 1 - beta, lambda = beta  beta-VAE; with a capacity C its KL term is |KL - C|
    zeta = 1, lambda > 0            MMD only: InfoVAE, InfoDiffusion
    zeta = 1, lambda = 0            no prior: the simplified Diff-AE of published tables

Priors are the standard normal and, with the MMD only, two that have samples but no density here: a ring of
ten Gaussians and a swiss roll. Both are distributions in the plane; a longer code consists of several points.
They are scaled so that the mean square of a number is 1. Deviation: the scale, and codes of more than two
numbers, are our choice.

References:
    Zhao, Song, Ermon, "InfoVAE", 2019, arXiv:1706.02262 (alpha there is zeta here).
    Wang et al., "InfoDiffusion", 2023, arXiv:2306.08757.
    Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599 (capacity).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from disdiff.baselines.encoders import RelaxedBernoulli
from disdiff.method.factor_encoder import CodePosterior
from disdiff.method.losses import KERNELS, mmd
from ldm.errors import UserError, check_option

MODES, MODE_STD = 10, 0.1  # number of Gaussians on the ring, and their standard deviation


@dataclass
class PriorConfig:
    """Prior terms of the loss.

    Attributes:
        zeta: weight of the mutual information; below 0 for a beta-VAE.
        weight: lambda, the weight of the prior divergence.
        kind: prior of the code: `normal`, or, with the MMD only, `mixture` or `swiss_roll`.
        kernel: kernel of the MMD: `multi_scale`, or `reference` (that of InfoDiffusion, which is almost flat
            for codes of many numbers).
        capacity: C in nats; null for none.
        capacity_steps: C rises linearly from 0 over these steps.
    """

    zeta: float = 1.0
    weight: float = 0.0
    kind: str = "normal"
    kernel: str = "multi_scale"
    capacity: float | None = None
    capacity_steps: int = 0


def term_weights(config: PriorConfig) -> tuple[float, float]:
    """Weights of the KL and of the MMD: 1 - zeta and lambda + zeta - 1; UserError if a weight is negative."""
    weight_kl, weight_mmd = 1 - config.zeta, round(config.weight + config.zeta - 1, 9)
    if weight_kl < 0 or weight_mmd < 0:
        raise UserError(
            f"prior.zeta={config.zeta} and prior.weight={config.weight} give a negative weight to the KL "
            f"({weight_kl:g}) or the MMD ({weight_mmd:g}); choose zeta <= 1 and weight >= 1 - zeta"
        )
    return weight_kl, weight_mmd


def check_prior(config: PriorConfig, posterior: str, num_numbers: int) -> None:
    """Check that the prior terms fit the code.

    Raises:
        UserError: a weight is negative; the kernel or the prior is unknown; the KL is used for a code without
            variance or a prior without density; or `mixture` or `swiss_roll` is used for bits or for an odd
            number of numbers.
    """
    weight_kl, _ = term_weights(config)
    check_option("prior.kernel", config.kernel, KERNELS)
    check_option("prior.kind", config.kind, PRIORS)
    if config.kind != "normal" and (weight_kl or posterior == "bernoulli" or num_numbers % 2):
        raise UserError(
            f"prior.kind={config.kind} needs prior.zeta=1 (it has no KL) and a code of an even number of "
            f"numbers, not {num_numbers}, which are not bits; choose prior.kind=normal otherwise"
        )
    if weight_kl and posterior not in ("gaussian", "bernoulli"):
        raise UserError(
            f"prior.zeta={config.zeta} uses the KL of the code, but code.encoder.posterior={posterior} "
            "has none; choose gaussian"
        )


def prior_loss(
    config: PriorConfig, posterior: CodePosterior, code: Tensor, step: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the prior terms of the loss for a `code` (B, N, D), a sample of `posterior`.

    The capacity rises with `step`; `generator` gives samples of the prior.

    Returns:
        The weighted sum, shape (): KL in nats, summed over the code and averaged over the batch, and MMD^2
        of the batch's codes; and each term without its weight, by name.
    """
    weight_kl, weight_mmd = term_weights(config)
    loss, stats = code.new_zeros(()), {}
    if weight_kl:
        kl = posterior.kl().mean()
        stats["kl"] = kl.detach()
        if config.capacity is not None:
            ramp = min(1.0, step / config.capacity_steps) if config.capacity_steps else 1.0
            kl = (kl - ramp * config.capacity).abs()
        loss = loss + weight_kl * kl
    if weight_mmd:
        draw = sample_bits if isinstance(posterior, RelaxedBernoulli) else PRIORS[config.kind]
        drawn = draw(code.shape, generator).to(code)
        distance = mmd(code.flatten(1), drawn.flatten(1), KERNELS[config.kernel])
        stats["mmd"] = distance.detach()
        loss = loss + weight_mmd * distance
    return loss, stats


def sample_bits(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Sample fair bits, 0 or 1, of a shape (B, N, D)."""
    return torch.rand(shape, generator=generator, device=generator.device).round()


def sample_normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Sample standard normal numbers of a shape (B, N, D)."""
    return torch.randn(shape, generator=generator, device=generator.device)


def sample_mixture(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Sample points of `MODES` Gaussians on a ring, as numbers of a shape (B, N, D), N * D even."""
    pairs, device = math.prod(shape) // 2, generator.device
    mode = torch.randint(MODES, (pairs,), generator=generator, device=device)
    noise = torch.randn(pairs, 2, generator=generator, device=device)
    ring = math.sqrt(2 * (1 - MODE_STD**2)) * _direction(2 * math.pi * mode / MODES)
    return (ring + MODE_STD * noise).view(shape)


def sample_swiss_roll(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Sample points of a spiral of two turns, radius = angle / (2 pi), shape (B, N, D), N * D even."""
    pairs = math.prod(shape) // 2
    radius = 2 * torch.rand(pairs, generator=generator, device=generator.device).sqrt()
    return (radius[:, None] * _direction(2 * math.pi * radius)).view(shape)


PRIORS: dict[str, Callable[[torch.Size, torch.Generator], Tensor]] = {
    "normal": sample_normal,
    "mixture": sample_mixture,
    "swiss_roll": sample_swiss_roll,
}


def _direction(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=-1)
