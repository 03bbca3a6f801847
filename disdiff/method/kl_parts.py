"""The parts of a Gaussian code's KL divergence (Chen et al. 2018, arXiv:1802.04942, Eq. 2).

    KL(q(z | x) || p(z)) = MI(x, z) + TC + sum_k KL(q(z^k) || p(z^k)),    TC = KL(q(z) || prod_k q(z^k))

They are estimated within a batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

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
    # log q(z_i^k | x_j) at [i, j, k], shape (B, B, N)
    pairs = log_normal(code[:, None], posterior.mean, posterior.logvar).sum(dim=-1)
    log_count = math.log(len(code))
    log_conditional = pairs.diagonal().sum(dim=0)
    log_joint = pairs.sum(dim=-1).logsumexp(dim=1) - log_count
    log_product = (pairs.logsumexp(dim=1) - log_count).sum(dim=-1)
    log_prior = log_normal(code, torch.zeros_like(code), torch.zeros_like(code)).flatten(1).sum(dim=1)
    return Parts(
        (log_conditional - log_joint).mean(),
        (log_joint - log_product).mean(),
        (log_product - log_prior).mean(),
    )


def log_normal(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log-density of normal numbers, elementwise; the shapes are broadcast."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * (-logvar).exp())
