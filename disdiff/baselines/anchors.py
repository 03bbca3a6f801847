"""Dynamic Gaussian anchoring and skip dropout, two additions to EncDiff (Jun et al. 2024, arXiv:2410.23820).

Anchoring: the codes of each unit are clustered by a Gaussian mixture while the encoder trains. In training,
the denoiser reads a code that is shifted towards the mean of the Gaussian it belongs to, so that values of
one attribute come to lie together, with gaps between attributes. The mixture starts as one Gaussian, is
refitted by EM, and Gaussians are split and removed by a criterion.
Skip dropout: maps of the down path are withheld from the up path, so the denoiser must use the code.

Deviations: units are single numbers, so the clustering (HDDC in the paper) is plain EM; the criterion is
the BIC; a unit with one Gaussian is not shifted, as it has nothing to separate. The paper's numbers were not
at hand, so those of `AnchorsConfig` are ours.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.nn.unet import Features

EM_STEPS = 10  # per refit
LEAST_VARIANCE = 1e-12  # of a unit, so that a constant one has a mixture, too
FLOOR = 1e-4  # smallest variance of a Gaussian, relative to that of its unit
NUM_PARAMETERS = 3  # of a Gaussian of the mixture: share, mean and variance


@dataclass
class AnchorsConfig:
    """Dynamic Gaussian anchoring.

    Attributes:
        shift: how far a code is shifted towards its anchor, as a share of the way; 0 for no anchors.
        most: largest number of Gaussians of a unit.
        memory: number of recent codes to which the mixture is fitted.
        every: training steps between two fits.
    """

    shift: float = 0.0
    most: int = 10
    memory: int = 4096
    every: int = 50


class Mixture(NamedTuple):
    """Gaussian mixtures of N units with at most K Gaussians each, shape (N, K); absent ones have no share."""

    share: Tensor
    mean: Tensor
    variance: Tensor

    def log_joint(self, x: Tensor) -> Tensor:
        """Log-density of each Gaussian times its share, for numbers `x` (M, N), shape (M, N, K)."""
        squares = (x[..., None] - self.mean).square() / self.variance
        return self.share.log() - 0.5 * (math.log(2 * math.pi) + self.variance.log() + squares)

    def bic(self, x: Tensor) -> Tensor:
        """Bayesian information criterion for numbers `x` (M, N), shape (N,); lower is better."""
        fit = self.log_joint(x).logsumexp(dim=-1).sum(dim=0)
        return NUM_PARAMETERS * (self.share > 0).sum(dim=1) * math.log(len(x)) - 2 * fit

    def refit(self, x: Tensor) -> "Mixture":
        """The mixture after `EM_STEPS` steps of EM on numbers `x` (M, N)."""
        mixture, floor = self, FLOOR * x.var(dim=0, correction=0)[:, None].clamp(min=LEAST_VARIANCE)
        for _ in range(EM_STEPS):
            belongs = mixture.log_joint(x).softmax(dim=-1)
            total = belongs.sum(dim=0)
            divisor = total.clamp(min=1e-12)
            mean = (belongs * x[..., None]).sum(dim=0) / divisor
            squares = (belongs * (x[..., None] - mean).square()).sum(dim=0)
            mixture = Mixture(total / len(x), mean, (squares / divisor).maximum(floor))
        return mixture

    def split(self) -> "Mixture":
        """The mixture with the widest Gaussian of each unit in two, one standard deviation to each side."""
        widest = (self.share * self.variance).argmax(dim=1, keepdim=True)
        free = self.share.argmin(dim=1, keepdim=True)
        share, mean, variance = (x.gather(1, widest) for x in self)
        half, apart = share / 2, variance.sqrt()
        parts = (half, mean - apart, variance), (half, mean + apart, variance)
        halved = (x.scatter(1, widest, a).scatter(1, free, b) for x, a, b in zip(self, *parts, strict=True))
        return self.where(self.share.amin(dim=1) == 0, Mixture(*halved))

    def drop(self) -> "Mixture":
        """The mixture without the smallest Gaussian of each unit that has several."""
        present = self.share.masked_fill(self.share == 0, math.inf)
        share = self.share.scatter(1, present.argmin(dim=1, keepdim=True), 0.0)
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return self.where((self.share > 0).sum(dim=1) > 1, self._replace(share=share))

    def where(self, chosen: Tensor, other: "Mixture") -> "Mixture":
        """`other` for the units of `chosen` (N,), this mixture for the rest."""
        return Mixture(*(torch.where(chosen[:, None], b, a) for a, b in zip(self, other, strict=True)))


class Anchors(nn.Module):
    """The mixtures of a code's units, kept up to date during training."""

    share: Tensor
    mean: Tensor
    variance: Tensor
    memory: Tensor
    num_seen: Tensor

    def __init__(self, config: AnchorsConfig, num_units: int) -> None:
        super().__init__()
        self.config = config
        for name, value in (("share", 0.0), ("mean", 0.0), ("variance", 1.0)):
            self.register_buffer(name, torch.full((num_units, config.most), value))
        self.register_buffer("memory", torch.zeros(config.memory, num_units))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.long))

    @property
    def mixture(self) -> Mixture:
        """The present mixtures."""
        return Mixture(self.share, self.mean, self.variance)

    def forward(self, code: Tensor, step: int) -> Tensor:
        """Remember `code` (B, N, 1), refit the mixtures if it is time, and return the shifted code."""
        self.remember(code.detach()[..., 0].float(), step)
        return self.shift(code)

    def shift(self, code: Tensor) -> Tensor:
        """Shift `code` (B, N, 1) towards its anchors; units with fewer than two anchors stay."""
        x = code.detach()[..., 0].float()
        nearest = self.mixture.log_joint(x).argmax(dim=-1, keepdim=True)
        anchor = self.mean.expand(len(x), -1, -1).gather(-1, nearest).to(code)
        several = ((self.share > 0).sum(dim=1) > 1)[:, None]
        return torch.where(several, code + self.config.shift * (anchor - code), code)

    @torch.no_grad()
    def remember(self, x: Tensor, step: int) -> None:
        """Remember numbers `x` (B, N); every `every` steps, once the memory is full, refit to it."""
        places = (self.num_seen + torch.arange(len(x), device=x.device)) % len(self.memory)
        self.memory[places] = x
        self.num_seen += len(x)
        if (step + 1) % self.config.every or self.num_seen < len(self.memory):
            return
        if not self.share.any():
            self.share[:, 0] = 1.0
            self.mean[:, 0] = self.memory.mean(dim=0)
            self.variance[:, 0] = self.memory.var(dim=0).clamp(min=FLOOR * LEAST_VARIANCE)
        best = self.mixture.refit(self.memory)
        for other in (best.split().refit(self.memory), best.drop().refit(self.memory)):
            best = best.where(other.bic(self.memory) < best.bic(self.memory), other)
        for buffer, value in zip(self.mixture, best, strict=True):
            buffer.copy_(value)


def drop_skips(features: Features, rate: float) -> Features:
    """Set each skip of each image to zero with probability `rate`, and divide the others by 1 - rate.

    Deviation: a skip is dropped as a whole; the paper's text for this was not at hand.
    """
    skips = (h * F.dropout(h.new_ones(len(h), 1, 1, 1), rate) for h in features.skips)
    return Features(features.emb, features.bottleneck, tuple(skips))
