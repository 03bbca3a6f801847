"""How a code is held to its prior: the objective of InfoVAE, which all auxiliary-code systems here share.

    maximise   ELBO + zeta MI(x, z) - lambda D(q(z) || p(z))
    minimise   reconstruction + (1 - zeta) KL(q(z | x) || p(z)) + (lambda + zeta - 1) D(q(z) || p(z))

The second line follows from the first, D being a divergence for which MMD stands in. Special cases:

    zeta = 0, lambda = 1            ELBO: the VAE
    zeta = 1 - beta, lambda = beta  beta-VAE; with a capacity C its KL term is |KL - C|
    zeta = 1, lambda > 0            MMD alone: InfoVAE, InfoDiffusion
    zeta = 1, lambda = 0            no prior at all: the simplified Diff-AE of published tables

References:
    Zhao, Song, Ermon, "InfoVAE", 2019, arXiv:1706.02262 (alpha there is zeta here).
    Wang et al., "InfoDiffusion", 2023, arXiv:2306.08757.
    Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599 (capacity).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from disdiff.baselines.encoders import CodePosterior, RelaxedBernoulli
from disdiff.losses import KERNELS, mmd
from ldm.errors import UserError, choose


@dataclass
class PriorConfig:
    """What holds the code to its prior.

    Attributes:
        zeta: of the mutual information; below 0 for a beta-VAE.
        weight: lambda, of the prior divergence.
        kernel: of the MMD: `multi_scale`, or `reference`, InfoDiffusion's, which is nearly flat for codes of
            many numbers.
        capacity: C in nats; null for none.
        capacity_steps: C rises linearly from 0 over these steps.
    """

    zeta: float = 1.0
    weight: float = 0.0
    kernel: str = "multi_scale"
    capacity: float | None = None
    capacity_steps: int = 0


def term_weights(config: PriorConfig) -> tuple[float, float]:
    """Weights of the KL and of the MMD: 1 - zeta and lambda + zeta - 1.

    Raises:
        UserError: one of them is negative.
    """
    weight_kl, weight_mmd = 1 - config.zeta, round(config.weight + config.zeta - 1, 9)
    if weight_kl < 0 or weight_mmd < 0:
        raise UserError(
            f"prior.zeta={config.zeta} and prior.weight={config.weight} give a negative weight to the KL "
            f"({weight_kl:g}) or the MMD ({weight_mmd:g}); choose zeta <= 1 and weight >= 1 - zeta"
        )
    return weight_kl, weight_mmd


def check_prior(config: PriorConfig, posterior: str) -> None:
    """Refuse what cannot be trained.

    Raises:
        UserError: a weight is negative, the kernel is unknown, or the KL of a code without variance is
            wanted.
    """
    weight_kl, _ = term_weights(config)
    choose("prior.kernel", config.kernel, KERNELS)
    if weight_kl and posterior not in ("gaussian", "bernoulli"):
        raise UserError(
            f"prior.zeta={config.zeta} prices the KL of the code; with factors.encoder.posterior={posterior} "
            "it has none, choose gaussian"
        )


def prior_loss(
    config: PriorConfig, posterior: CodePosterior, code: Tensor, step: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The prior's terms of the loss.

    Args:
        config: their weights.
        posterior: of the batch.
        code: drawn from it, shape (B, N, D).
        step: of training; raises the capacity.
        generator: source of draws from the prior.

    Returns:
        The weighted sum, shape (): KL in nats, summed over the code and averaged over the batch, and MMD^2
        of the batch's codes; and each term unweighted, by name.
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
        drawn = sample_prior(code, isinstance(posterior, RelaxedBernoulli), generator)
        distance = mmd(code.flatten(1), drawn.flatten(1), KERNELS[config.kernel])
        stats["mmd"] = distance.detach()
        loss = loss + weight_mmd * distance
    return loss, stats


def sample_prior(like: Tensor, discrete: bool, generator: torch.Generator) -> Tensor:
    """Draw codes from the prior, fair bits or the standard normal, shaped like a tensor (B, N, D)."""
    draw = torch.rand if discrete else torch.randn
    drawn = draw(like.shape, generator=generator, device=generator.device).to(like)
    return drawn.round() if discrete else drawn
