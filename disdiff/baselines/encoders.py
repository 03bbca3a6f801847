"""Encoders of the baselines: a trunk (image or z => features) and a linear layer (features => code).

The code is deterministic, Gaussian or made of bits. The trunks are:

    pdae        stacked 3x3 convolutions of stride 2, one self-attention    Zhang et al. 2022, 2212.12990
    half_unet   a U-Net's down path without time, averaged over pixels      Preechakul et al. 2022, 2111.15640
    vae         4x4 convolutions of stride 2 and a hidden layer             Higgins et al. 2017

Deviation: `half_unet` halves the resolution by strided convolutions and has attention at its coarsest level
only; its width grows up to 8 times `channels`, as published.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.method.factor_encoder import INITIAL_LOGVAR, Encoder, Posterior, count_halvings
from ldm.errors import look_up
from ldm.nn.layers import Resample, SelfAttention, build_norm

OUTPUT_SIZE = 4  # side of the coarsest map
NUM_HEADS, HEAD_CHANNELS, NUM_GROUPS, VAE_HIDDEN = 4, 32, 32, 256
TEMPERATURE = 0.5  # temperature of relaxed bits


@dataclass
class TrunkConfig:
    """The trunk of an encoder.

    Attributes:
        kind: `disdiff` is the factor encoder with all options of `code.encoder`; `pdae`, `half_unet` and
            `vae` use only `input` and `posterior` of these options.
        channels: channels of the first convolution.
    """

    kind: str = "disdiff"
    channels: int = 64


class RelaxedBernoulli(NamedTuple):
    """Bits with the relaxation of Maddison et al. 2017, arXiv:1611.00712, which has gradients.

    Experimental: the InfoDiffusion paper mentions a discrete code, but no public code has one.

    Attributes:
        logits: logits of each bit being 1, shape (B, N, D).
    """

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """The more likely bits, 0 or 1, shape (B, N, D)."""
        return (self.logits > 0).to(self.logits)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Relaxed bits in (0, 1), shape (B, N, D)."""
        shape, device = self.logits.shape, generator.device
        uniform = torch.rand(shape, generator=generator, device=device).to(self.logits).clamp(1e-6, 1 - 1e-6)
        return ((self.logits + uniform.logit()) / TEMPERATURE).sigmoid()

    def kl(self) -> Tensor:
        """KL divergence to fair bits in nats, summed over all bits, shape (B,)."""
        entropy = F.binary_cross_entropy_with_logits(self.logits, self.logits.sigmoid(), reduction="none")
        return (math.log(2) - entropy).flatten(1).sum(dim=1)


class TrunkEncoder(Encoder):
    """A trunk and a linear layer for the mean, and for a Gaussian code the log-variance, of every number."""

    def __init__(self, trunk: nn.Module, width: int, num_units: int, unit_dim: int, gaussian: bool) -> None:
        super().__init__(num_units, unit_dim)
        self.trunk, self.gaussian = trunk, gaussian
        self.head = nn.Linear(width, num_units * unit_dim * (1 + gaussian))
        if gaussian:
            nn.init.constant_(self.head.bias[num_units * unit_dim :], INITIAL_LOGVAR)

    def posterior(self, x: Tensor) -> Posterior:
        """Posterior of the codes (B, N, D) of `x` (B, C, size, size)."""
        parts = self.head(self.trunk(x)).chunk(1 + self.gaussian, dim=1)
        mean, *logvar = (part.unflatten(1, (self.num_units, self.unit_dim)) for part in parts)
        return Posterior.bounded(mean, *logvar or [None])


class BernoulliEncoder(Encoder):
    """An encoder whose outputs are the logits of bits."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder.num_units, encoder.unit_dim)
        self.encoder = encoder

    def posterior(self, x: Tensor) -> RelaxedBernoulli:
        """Distribution of the bits of `x` (B, C, size, size)."""
        return RelaxedBernoulli(self.encoder(x))


class LightBlock(nn.Module):
    """Residual block of one convolution: norm, SiLU, 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = build_norm(in_channels, NUM_GROUPS)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply to `h` (B, C, H, W)."""
        return self.shortcut(h) + self.conv(F.silu(self.norm(h)))


def build_trunk(config: TrunkConfig, in_channels: int, size: int) -> tuple[nn.Module, int]:
    """Build a trunk for inputs (B, in_channels, size, size); return it and the width of its features.

    Raises:
        UserError: the kind is unknown, or `size` is not a power of two or too small for the trunk.
    """
    kinds = {"pdae": (build_pdae_trunk, 1), "half_unet": (build_half_unet, 0), "vae": (build_vae_trunk, 1)}
    build, fewest = look_up("trunk.kind", config.kind, kinds)
    sizes = "8, 16, 32" if fewest else "1, 2, 4, 8, 16"
    needs = f"the encoder trunk.kind={config.kind} needs inputs of {sizes}"
    side = OUTPUT_SIZE if fewest else min(size, OUTPUT_SIZE)
    return build(config.channels, in_channels, count_halvings(size, side, needs, fewest))


def build_attention(channels: int) -> SelfAttention:
    """Self-attention with four heads as published, or fewer, so that a head has at least 32 channels."""
    return SelfAttention(channels, min(NUM_HEADS, max(1, channels // HEAD_CHANNELS)), NUM_GROUPS)


def build_pdae_trunk(channels: int, in_channels: int, depth: int) -> tuple[nn.Module, int]:
    """Trunk of PDAE: `depth` convolutions, with attention where the map is 16x16."""
    trunk, width = nn.Sequential(), in_channels
    for i in range(depth):
        previous, width = width, channels * min(2**i, 2 if depth <= 4 else 4)
        trunk.append(nn.Conv2d(previous, width, 3, stride=2, padding=1))
        if i == max(depth - 3, 0):
            trunk.append(build_attention(width))
        trunk.extend([build_norm(width, NUM_GROUPS), nn.SiLU()])
    return trunk.append(nn.Flatten()), width * OUTPUT_SIZE**2


def build_half_unet(channels: int, in_channels: int, depth: int) -> tuple[nn.Module, int]:
    """Trunk of Diff-AE: two light blocks per level down to 4x4, attention, mean over pixels."""
    trunk, width = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1)), channels
    for i in range(depth + 1):
        previous, width = width, channels * min(2**i, 8)
        trunk.extend([LightBlock(previous, width), LightBlock(width, width)])
        if i < depth:
            trunk.append(Resample(width, "down"))
    trunk.extend([build_attention(width), LightBlock(width, width)])
    tail = [build_norm(width, NUM_GROUPS), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return trunk.extend(tail), width


def build_vae_trunk(channels: int, in_channels: int, depth: int) -> tuple[nn.Module, int]:
    """Trunk of beta-VAE: 4x4 convolutions of widths c, c, 2c, 2c, ..., then a hidden layer of 256."""
    widths = [in_channels, *list_vae_channels(channels, depth)]
    trunk = nn.Sequential()
    for previous, width in zip(widths, widths[1:], strict=False):
        trunk.extend([nn.Conv2d(previous, width, 4, stride=2, padding=1), nn.ReLU()])
    hidden = nn.Linear(widths[-1] * OUTPUT_SIZE**2, VAE_HIDDEN)
    return trunk.extend([nn.Flatten(), hidden, nn.ReLU()]), VAE_HIDDEN


def list_vae_channels(channels: int, depth: int) -> list[int]:
    """Channels of the beta-VAE's maps, finest first."""
    return [channels * (1 if i < 2 else 2) for i in range(depth)]
