"""Conditional diffusion (Diff-AE, InfoDiffusion, EncDiff): encoder and denoiser are trained together.

The denoiser reads the code, eps_hat = eps(z_t, t, code). The three systems differ in configuration: in
Diff-AE (Preechakul et al. 2022, arXiv:2111.15640) the code scales every block; in InfoDiffusion (Wang et al.
2023, arXiv:2306.08757) it scales and shifts, and the loss has prior terms; in EncDiff (Yang et al. 2024,
arXiv:2402.09712) each unit is a token for cross-attention. None has a frozen denoiser or a disentangling
loss.

EncDiff's transformer block is self-attention, cross-attention to the tokens and a gated feed-forward layer
(Shazeer 2020, arXiv:2002.05202), each residual, instead of adaptive norms.
Deviation: cross-attention and feed-forward follow every residual block, not only those with self-attention,
so a small denoiser without self-attention also reads the tokens; the norms before attention are GroupNorms.
Its additions by Jun et al. 2024 are in `disdiff.baselines.anchors`.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.baselines.anchors import AnchorsConfig, drop_skips
from disdiff.method.gradient_decoder import UnitLinear
from disdiff.method.model import DiffusionModel, refuse_units
from ldm.diffusion.sampler import EpsFunction
from ldm.errors import look_up
from ldm.nn.layers import CrossAttention, zero_init
from ldm.nn.unet import UNet, UNetConfig

CONDITIONS = {"scale": "scale", "scale_shift": "scale_shift", "transformer": "attention"}
EXPANSION = 4  # hidden width of a feed-forward layer over its input's


@dataclass
class ConditionalConfig:
    """A conditional denoiser; its size and schedule are in the section `latent_diffusion`.

    Attributes:
        condition: how the code enters: by adaptive norms (`scale` or `scale_shift`), or as tokens for
            transformer blocks (`transformer`).
        token_dim: width of a unit's token, for `transformer`.
        norm: norm of the noise error, `l1` or `l2`.
        skip_dropout: rate at which the U-Net's skips are dropped in training.
        anchors: dynamic Gaussian anchoring of units of one number, in training.
    """

    condition: str = "scale_shift"
    token_dim: int = 16
    norm: str = "l2"
    skip_dropout: float = 0.0
    anchors: AnchorsConfig = field(default_factory=AnchorsConfig)


class UnitTokens(nn.Module):
    """Tokens of EncDiff: a network D -> 64 -> 128 -> token_dim per unit."""

    def __init__(self, num_units: int, unit_dim: int, token_dim: int) -> None:
        super().__init__()
        widths = (unit_dim, 64, 128, token_dim)
        pairs = zip(widths, widths[1:], strict=False)
        self.layers = nn.ModuleList([UnitLinear(num_units, *pair) for pair in pairs])

    def forward(self, code: Tensor) -> Tensor:
        """Tokens of `code` (B, N, D), shape (B, N, token_dim)."""
        first, *others = self.layers
        h = first(code, None)
        for layer in others:
            h = layer(F.elu(h), None)
        return h


class TokenBlock(nn.Module):
    """Cross-attention to tokens, then a gated feed-forward layer per pixel; both outputs start at zero."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        channels = attention.query.in_channels
        self.attention, self.norm = attention, nn.LayerNorm(channels)
        self.lift = nn.Linear(channels, 2 * EXPANSION * channels)
        self.out = zero_init(nn.Linear(EXPANSION * channels, channels))

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        """Apply to `h` (B, C, H, W) and `context` (B, M, context_dim)."""
        h = self.attention(h, context)
        value, gate = self.lift(self.norm(h.movedim(1, -1))).chunk(2, dim=-1)
        return h + self.out(value * F.gelu(gate)).movedim(-1, 1)


def complete_blocks(denoiser: UNet) -> UNet:
    """Replace every cross-attention in `denoiser` by a `TokenBlock`, and return `denoiser`."""
    for module in list(denoiser.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, CrossAttention):
                setattr(module, name, TokenBlock(child))
    return denoiser


class ConditionalNetworks(nn.Module):
    """The trained networks: encoder, layers that turn the code into the condition, and denoiser."""

    def __init__(
        self, encoder: nn.Module, config: ConditionalConfig, unet: UNetConfig, in_channels: int
    ) -> None:
        """Build a conditional denoiser for latents of `in_channels` that reads the code of `encoder`.

        Raises:
            UserError: the condition is unknown.
        """
        super().__init__()
        enters = look_up("conditional.condition", config.condition, CONDITIONS)
        num_units, unit_dim = encoder.num_units, encoder.unit_dim
        self.encoder, self.skip_dropout = encoder, config.skip_dropout
        if enters == "attention":
            self.condition, width = UnitTokens(num_units, unit_dim, config.token_dim), config.token_dim
        else:
            width = unet.emb_dim
            self.condition = nn.Sequential(nn.Flatten(), nn.Linear(num_units * unit_dim, width))
        self.denoiser = complete_blocks(UNet(unet, in_channels, cond_dim=width, cond_affine=enters))

    def forward(self, z_t: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """Predicted noise in `z_t` (B, C, h, w) at steps `t` (B,) for `code` (B, N, D)."""
        cond = self.condition(code)
        if not (self.training and self.skip_dropout):
            return self.denoiser(z_t, t, cond)
        features = drop_skips(self.denoiser.features(z_t, t, cond), self.skip_dropout)
        return self.denoiser.decode(features, cond)


class ConditionalDiffusion(DiffusionModel):
    """A latent space, an encoder and a denoiser conditioned on the whole code."""

    def eps_fn(self, code: Tensor, units: list[int] | None = None) -> EpsFunction:
        """The noise predictor for `code` (B, N, D)."""
        refuse_units(units)
        cond = self.networks.condition(code)

        def predict_eps(z_t: Tensor, t: Tensor) -> Tensor:
            return self.networks.denoiser(z_t, t, cond)

        return predict_eps


def switch_by_step(first: int, last: int, inside: EpsFunction, outside: EpsFunction) -> EpsFunction:
    """Use `inside` at the steps first <= t < last, and `outside` at all others.

    Deviation: InfoDiffusion's released two-phase sampler never leaves its first phase, because its counter is
    not incremented; this function uses t.
    """

    def predict_eps(z_t: Tensor, t: Tensor) -> Tensor:
        return (inside if first <= int(t[0]) < last else outside)(z_t, t)

    return predict_eps


def interpolate_predictions(start: EpsFunction, end: EpsFunction, share: float) -> EpsFunction:
    """(1 - share) * start + share * end, PDAE's interpolation of trajectories.

    For predictors on the same frozen model this interpolates their gradient fields.
    """
    return lambda z_t, t: torch.lerp(start(z_t, t), end(z_t, t), share)
