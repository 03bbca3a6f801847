"""Total correlation of the code's units, the term that FactorVAE and beta-TCVAE add to the VAE.

    TC = KL(q(z) || prod_k q(z^k)),    q(z) = mean over the images of q(z | x)

The KL of the VAE is a sum in which each part appears once (Chen et al., Eq. 2):

    KL(q(z | x) || p(z)) = MI(x, z) + TC + sum_k KL(q(z^k) || p(z^k))

FactorVAE adds gamma TC, with the density ratio from a discriminator. beta-TCVAE weights the three parts,
estimated within a batch. Both keep the closed form of the KL, so extra weights of zero leave the VAE.
Deviations: beta-TCVAE is written as KL + (alpha - 1) MI + (beta - 1) TC + (gamma - 1) KL of the units, which
has the same expectation as its three weighted estimates and less variance; the estimates divide by the batch
size M instead of N M, a constant without gradient that makes them exact when the batch is the data set.

References:
    Kim, Mnih, "Disentangling by Factorising" (FactorVAE), 2018, arXiv:1802.05983.
    Chen et al., "Isolating Sources of Disentanglement in VAEs" (beta-TCVAE), 2018, arXiv:1802.04942.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.method.factor_encoder import Posterior
from disdiff.method.kl_parts import decompose_kl

SLOPE = 0.2  # of the discriminator's leaky ReLUs


@dataclass
class FactorVAEConfig:
    """The total correlation of FactorVAE; the defaults are those of the paper for dSprites.

    Attributes:
        gamma: weight of the total correlation.
        width: width of the discriminator's layers.
        num_layers: number of its hidden layers.
        learning_rate: its own learning rate; warm-up and decay are those of `code.train`.
        betas: its own betas of Adam.
    """

    gamma: float = 35.0
    width: int = 1000
    num_layers: int = 5
    learning_rate: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.5, 0.9])


@dataclass
class BetaTCVAEConfig:
    """Weights of the three parts of the KL in beta-TCVAE; all 1 is the VAE.

    Attributes:
        mutual_information: alpha, weight of the mutual information of image and code.
        total_correlation: beta, weight of the total correlation.
        dimension_wise: gamma, weight of the KL of the single units.
    """

    mutual_information: float = 1.0
    total_correlation: float = 6.0
    dimension_wise: float = 1.0


Term = tuple[Tensor, dict[str, Tensor]]  # a term of the loss, shape (), and statistics by name


class Discriminator(nn.Module):
    """Log-odds that a code is one of q(z) rather than of the product of its units' distributions.

    Deviation: one logit instead of two, which is the same function class.
    """

    def __init__(self, num_numbers: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers, widths = nn.Sequential(), [num_numbers, *[width] * num_layers]
        for previous, following in zip(widths, widths[1:], strict=False):
            self.layers.extend([nn.Linear(previous, following), nn.LeakyReLU(SLOPE)])
        self.layers.append(nn.Linear(width, 1))

    def forward(self, code: Tensor) -> Tensor:
        """Log-odds for `code` (B, N, D), shape (B,)."""
        return self.layers(code.flatten(1)).squeeze(1)

    def total_correlation(self, code: Tensor) -> Tensor:
        """Estimated total correlation in nats, shape (); its gradient reaches `code` (B, N, D) only."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return torch.func.functional_call(self, weights, (code,)).mean()


def discriminator_loss(discriminator: Discriminator, code: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy of telling codes (B, N, D) from permuted ones, shape (); for the discriminator only.

    Deviation: the permuted codes are of the same batch, not of a second one.
    """
    code = code.detach()
    permuted = permute_units(code, generator)
    return 0.5 * (F.softplus(-discriminator(code)).mean() + F.softplus(discriminator(permuted)).mean())


class FactorVAETerm(nn.Module):
    """gamma TC, and the loss of the discriminator that estimates it.

    Their gradients do not mix: that of TC reaches the code only, that of the discriminator's loss the
    discriminator only, so that one step trains both.
    """

    def __init__(self, config: FactorVAEConfig, num_numbers: int, seed: int) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # the same weights whatever was drawn before
            torch.manual_seed(seed)
            self.discriminator = Discriminator(num_numbers, config.width, config.num_layers)

    def forward(self, posterior: Posterior, code: Tensor, generator: torch.Generator) -> Term:
        """The term for `code` (B, N, D), a sample of `posterior`, and its parts by name."""
        correlation = self.discriminator.total_correlation(code)
        told = discriminator_loss(self.discriminator, code, generator)
        stats = {"total_correlation": correlation.detach(), "discriminator": told.detach()}
        return self.config.gamma * correlation + told, stats

    def parameter_groups(self, scale: float) -> list[dict]:
        """The discriminator with its own optimiser settings; `scale` multiplies the learning rate."""
        own = {"lr": scale * self.config.learning_rate, "betas": tuple(self.config.betas)}
        return [{"params": list(self.discriminator.parameters()), **own}]


class BetaTCVAETerm(nn.Module):
    """What the weights of beta-TCVAE add to a KL that has each part once."""

    def __init__(self, config: BetaTCVAEConfig) -> None:
        super().__init__()
        self.extra = (config.mutual_information - 1, config.total_correlation - 1, config.dimension_wise - 1)

    def forward(self, posterior: Posterior, code: Tensor, generator: torch.Generator) -> Term:
        """The term for `code` (B, N, D), a sample of `posterior`, and the parts of the KL by name."""
        parts = decompose_kl(posterior, code)
        added = sum(weight * part for weight, part in zip(self.extra, parts, strict=True))
        return added, {name: part.detach() for name, part in parts._asdict().items()}

    def parameter_groups(self, scale: float) -> list[dict]:
        """None."""
        return []


def permute_units(code: Tensor, generator: torch.Generator) -> Tensor:
    """Permute every unit of `code` (B, N, D) over the batch on its own: samples of prod_k q(z^k)."""
    order = torch.rand(code.shape[:2], generator=generator, device=generator.device).argsort(dim=0)
    return code.gather(0, order.to(code.device)[..., None].expand_as(code))
