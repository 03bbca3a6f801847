"""The parts of a Gaussian code's KL divergence (Chen et al. 2018, arXiv:1802.04942, Eq. 2).

    KL(q(z | x) || p(z)) = MI(x, z) + TC + sum_k KL(q(z^k) || p(z^k)),    TC = KL(q(z) || prod_k q(z^k))

They are estimated from the posteriors of a batch, or of more images (`PosteriorMemory`).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from disdiff.method.factor_encoder import Posterior


class Parts(NamedTuple):
    """The parts of the KL in nats, shape () each; their sum is the mean of log q(z | x) - log p(z)."""

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Tensor


def decompose_kl(posterior: Posterior, code: Tensor) -> Parts:
    """Estimate the parts of the KL by weighted sampling within a batch (Chen et al., Appendix C).

    Args:
        posterior: Gaussian posterior of the batch, shapes (B, N, D).
        code: one sample of it, shape (B, N, D).
    """
    log_conditional = log_normal(code, posterior.mean, posterior.logvar).flatten(1).sum(dim=1)
    log_prior = log_normal(code, torch.zeros_like(code), torch.zeros_like(code)).flatten(1).sum(dim=1)
    log_joint, log_product = log_aggregate(posterior, code)
    return Parts(
        (log_conditional - log_joint).mean(),
        (log_joint - log_product).mean(),
        (log_product - log_prior).mean(),
    )


def log_aggregate(posterior: Posterior, code: Tensor) -> tuple[Tensor, Tensor]:
    """Log q(z) and sum_k log q(z^k) of codes (B, N, D), shape (B,) each.

    q is the mixture of the M Gaussians of `posterior`, shapes (M, N, D).
    """
    # log q(z_i^k | x_j) at [i, j, k], shape (B, M, N)
    pairs = log_normal(code[:, None], posterior.mean, posterior.logvar).sum(dim=-1)
    log_count = math.log(pairs.shape[1])
    log_joint = pairs.sum(dim=-1).logsumexp(dim=1) - log_count
    return log_joint, (pairs.logsumexp(dim=1) - log_count).sum(dim=-1)


def total_correlation(posterior: Posterior, code: Tensor) -> Tensor:
    """TC of codes (B, N, D) in nats, shape (), under the mixture of `posterior`, shapes (M, N, D).

    An estimate cannot exceed (N - 1) log M, and mutual information of more than log M nats counts as
    correlation. So M should be large; `PosteriorMemory` makes it so.
    """
    log_joint, log_product = log_aggregate(posterior, code)
    return (log_joint - log_product).mean()


class PosteriorMemory(nn.Module):
    """The posteriors of the last M images, for estimates of their mixture from more images than a batch has.

    They have no gradients: the gradient of TC passes through the sampled code only, which is enough, since
    the expected derivative of log q(z) with respect to the parameters of q is zero. With several processes
    each one has its own memory.

    Args:
        posterior: posteriors to begin with, shapes (M, N, D).
    """

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.register_buffer("mean", posterior.mean.detach().clone())
        self.register_buffer("logvar", posterior.logvar.detach().clone())

    def add(self, posterior: Posterior) -> Posterior:
        """Posteriors of the batch and of the memory, shapes (B + M, N, D); the memory keeps the newest M."""
        both = Posterior(
            torch.cat([posterior.mean.detach(), self.mean]),
            torch.cat([posterior.logvar.detach(), self.logvar]),
        )
        self.mean.copy_(both.mean[: len(self.mean)])
        self.logvar.copy_(both.logvar[: len(self.logvar)])
        return both


def log_normal(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log-density of normal numbers, elementwise; the shapes are broadcast."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * (-logvar).exp())
