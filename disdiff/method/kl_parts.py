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


def correlation_of_code(posterior: Posterior, code: Tensor) -> Tensor:
    """`total_correlation` of which only `code` has a gradient, in less than half of the time.

    The gradient is found by hand in the same pass: with z^k in the mixture's units, and w_j the posterior
    share of part j, that of log q(z^k) is sum_j w_j (m_j^k - z^k) / variance_j^k. As the squares are expanded
    (z^2 - 2 z m + m^2), log-densities are exact to about 1e-7 z^2 / variance only.
    """
    with torch.autocast(code.device.type, enabled=False):  # half precision has too few digits for the squares
        value, gradient = _correlate(Posterior(*(part.float() for part in posterior)), code.detach().float())
    return value + ((code - code.detach()) * gradient).sum()


@torch.no_grad()
def _correlate(posterior: Posterior, code: Tensor) -> tuple[Tensor, Tensor]:
    """TC, shape (), and its gradient with respect to `code`, shape (B, N, D)."""
    mean, logvar = posterior
    precision, dim = (-logvar).exp(), code.shape[2]
    rest = (mean.square() * precision + logvar + math.log(2 * math.pi)).sum(dim=2, keepdim=True)
    parts = torch.cat([-0.5 * precision, mean * precision, -0.5 * rest], dim=2).permute(1, 2, 0)
    powers = torch.cat([code.square(), code, torch.ones_like(code[..., :1])], dim=2).transpose(0, 1)
    pairs = powers @ parts  # log q(z_i^k | x_j) at [k, i, j], shape (N, B, M)

    joint = pairs.sum(dim=0)
    log_joint, joint_share = joint.logsumexp(dim=1), joint.softmax(dim=1)
    largest = pairs.amax(dim=2, keepdim=True)
    share = pairs.sub_(largest).exp_()  # in place: M is large
    total = share.sum(dim=2, keepdim=True)
    log_product = (total.log() + largest).sum(dim=(0, 2))

    log_count, num_codes, num_units = math.log(len(mean)), len(code), code.shape[1]
    value = (log_joint - log_product).mean() + (num_units - 1) * log_count
    pull = (joint_share @ parts.mT - share @ parts.mT / total).transpose(0, 1)
    gradient = 2 * code * pull[..., :dim] + pull[..., dim : 2 * dim]
    return value, gradient / num_codes


class PosteriorMemory(nn.Module):
    """The posteriors of the last M images, for estimates of their mixture from more images than a batch has.

    They have no gradients: the gradient of TC passes through the sampled code only, which is enough, since
    the expected derivative of log q(z) with respect to the parameters of q is zero. With several processes
    all use the one of process 0, as DDP copies its buffers to the others.

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
