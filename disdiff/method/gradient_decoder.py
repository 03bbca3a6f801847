"""The gradient decoder: features of the frozen denoiser and a code => the gradient field of every unit.

Unit k's field is G(x_t, z^k, t) of DisDiff (Yang et al. 2023, arXiv:2301.13721), an approximation of
grad_{x_t} log p(z^k | x_t). All units share one decoder: for unit k an embedding p_k is added to the time
embedding, and its code modulates every block. All N units are computed in one pass, folded into the batch;
what depends only on the frozen features is computed once (`ldm.nn.layers.ResBlock`). The output layer starts
at zero, so training starts exactly at the frozen diffusion model.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError, look_up
from ldm.nn import cpu_kernels
from ldm.nn.layers import ResBlock, repeat_rows
from ldm.nn.unet import Features, UNetConfig, UNetDecoder

TOKENS = 4  # number of tokens into which `attention` splits a condition
CONDITION_GAIN = 3.0  # factor on initial weights of `private` conditions, so that the code matters beside t


@dataclass
class GradientDecoderConfig:
    """Gradient decoder.

    Attributes:
        channels: width at full resolution; null for that of the frozen U-Net.
        num_res_blocks: residual blocks per level minus one; null for that of the frozen U-Net.
        unit_embedding: `orthogonal` (rows of a matrix exponential), `learned` or `none`.
        condition: how a unit's code becomes the condition: by one linear layer for all units (`shared`,
            released), or by a small network per unit (`private`, as in EncDiff, arXiv:2402.09712).
        harmonics: for `private`: cosine and sine of this many multiples of each number, with period
            2 sqrt(3), are additional inputs, because the angles of `disdiff.initialisation` are periodic.
        residual_init: initial weights of the last convolution of every residual block: `zero` (released) or
            `default`. The decoder's output starts at zero either way. With `zero` the features do not depend
            on the code at first, so the output layer cannot learn from it.
        modulation: how the condition enters: by adaptive norms (`affine`, released), or split into four
            tokens that every pixel reads by cross-attention after every block (`attention`). The field of a
            unit reads only the tokens of this unit.
    """

    channels: int | None = None
    num_res_blocks: int | None = None
    unit_embedding: str = "orthogonal"
    condition: str = "shared"
    harmonics: int = 0
    residual_init: str = "zero"
    modulation: str = "affine"


class OrthogonalEmbedding(nn.Module):
    """N orthonormal vectors, rows of exp(W^T - W) with W free, mapped linearly to the embedding's width.

    The exponent has the sign of the released code, so the released weights can be loaded.
    """

    def __init__(self, num_units: int, emb_dim: int) -> None:
        super().__init__()
        size = emb_dim // 2
        if num_units > size:
            raise UserError(
                f"{num_units} units need an orthogonal embedding of at least that size, but it has {size}; "
                "lower code.num_units or set code.decoder.unit_embedding=learned"
            )
        self.num_units = num_units
        self.generator = nn.Parameter(torch.randn(size, size))
        self.project = nn.Linear(size, emb_dim)

    def forward(self) -> Tensor:
        """Embeddings of all units, shape (N, emb_dim)."""
        generator = self.generator.float()
        basis = torch.linalg.matrix_exp(generator.T - generator).to(self.generator.dtype)
        return self.project(basis[: self.num_units])


class LearnedEmbedding(nn.Module):
    """N free vectors of 32 numbers, mapped linearly to the embedding's width."""

    def __init__(self, num_units: int, emb_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(num_units, 32))
        self.project = nn.Linear(32, emb_dim)

    def forward(self) -> Tensor:
        """Embeddings of all units, shape (N, emb_dim)."""
        return self.project(self.table)


class SharedCondition(nn.Module):
    """One linear layer shared by all units."""

    def __init__(self, num_units: int, unit_dim: int, emb_dim: int, harmonics: int = 0) -> None:
        super().__init__()
        self.project = nn.Linear(unit_dim, emb_dim)

    def forward(self, code: Tensor, units: Tensor | None) -> Tensor:
        """Conditions of `code` (B, K, D), shape (B, K, emb_dim); `units` is ignored."""
        return self.project(code)


class PrivateCondition(nn.Module):
    """A network D -> 64 -> emb_dim per unit."""

    def __init__(
        self, num_units: int, unit_dim: int, emb_dim: int, harmonics: int = 0, hidden: int = 64
    ) -> None:
        super().__init__()
        self.harmonics = harmonics
        self.lift = UnitLinear(num_units, unit_dim * (1 + 2 * harmonics), hidden)
        self.project = UnitLinear(num_units, hidden, emb_dim, CONDITION_GAIN)

    def forward(self, code: Tensor, units: Tensor | None) -> Tensor:
        """Conditions of `code` (B, K, D), shape (B, K, emb_dim).

        `units` are the units' numbers, shape (K,) or (B, K); None for all units in order.
        """
        phase = code[..., None] * torch.arange(1, self.harmonics + 1).to(code) * (math.pi / 3**0.5)
        code = torch.cat([code, phase.cos().flatten(2), phase.sin().flatten(2)], dim=2)
        return self.project(F.silu(self.lift(code, units)), units)


class UnitLinear(nn.Module):
    """A linear layer per unit; all units are computed in one matrix product."""

    def __init__(self, num_units: int, in_dim: int, out_dim: int, gain: float = 1.0) -> None:
        super().__init__()
        bound = gain * in_dim**-0.5
        self.weight = nn.Parameter(torch.empty(num_units, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_units, out_dim).uniform_(-bound, bound))

    def forward(self, x: Tensor, units: Tensor | None) -> Tensor:
        """Map `x` (B, K, in_dim) to (B, K, out_dim)."""
        weight, bias = (self.weight, self.bias) if units is None else (self.weight[units], self.bias[units])
        return (x[:, :, None] @ weight).squeeze(2) + bias


class GradientDecoder(nn.Module):
    """Computes the gradient fields of units from the features of a frozen U-Net."""

    def __init__(
        self,
        config: GradientDecoderConfig,
        unet: UNetConfig,
        num_units: int,
        unit_dim: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        own = replace(
            unet,
            channels=config.channels or unet.channels,
            num_res_blocks=unet.num_res_blocks if config.num_res_blocks is None else config.num_res_blocks,
        )
        condition = look_up("code.decoder.condition", config.condition, CONDITIONS)
        self.condition = condition(num_units, unit_dim, unet.emb_dim, config.harmonics)
        self.unit_embedding = build_unit_embedding(config.unit_embedding, num_units, unet.emb_dim)
        modulations = {"affine": "scale_shift", "attention": "attention"}
        affine = look_up("code.decoder.modulation", config.modulation, modulations)
        self.num_tokens = TOKENS if affine == "attention" else None
        width = unet.emb_dim // (self.num_tokens or 1)
        self.decoder = UNetDecoder(own, unet, out_channels, cond_dim=width, cond_affine=affine)
        inits = {"zero": False, "default": True}
        if look_up("code.decoder.residual_init", config.residual_init, inits):
            for block in self.decoder.modules():
                if isinstance(block, ResBlock):
                    block.out_conv.reset_parameters()

    def forward(self, features: Features, code: Tensor, units: Tensor | None = None) -> Tensor:
        """Gradient fields of units.

        Args:
            features: features of B noisy latents.
            code: code of K units, shape (B, K, D).
            units: the units' numbers, shape (K,) or (B, K) int64; None for all N in order.

        Returns:
            One field per unit, shape (B, K, C, h, w).
        """
        batch, count = code.shape[:2]
        emb = repeat_rows(features.emb, batch * count)
        if self.unit_embedding is not None:
            embedding = self.unit_embedding()
            embedding = embedding if units is None else embedding[units]  # (K, E) or (B, K, E)
            emb = emb + embedding.expand(batch, count, -1).flatten(0, 1)
        cond = self.condition(code, units).flatten(0, 1)
        if self.num_tokens is not None:
            cond = cond.unflatten(1, (self.num_tokens, -1))
        if cpu_kernels.prefers_channels_last(features.bottleneck):
            features = features.channels_last()
        grad = self.decoder(features, emb, cond)
        return grad.unflatten(0, (batch, count))


CONDITIONS = {"shared": SharedCondition, "private": PrivateCondition}


def build_unit_embedding(kind: str, num_units: int, emb_dim: int) -> nn.Module | None:
    """Build the embedding that distinguishes units; None for `none`; UserError if `kind` is unknown."""
    kinds: dict[str, Any] = {
        "orthogonal": OrthogonalEmbedding,
        "learned": LearnedEmbedding,
        "none": lambda *sizes: None,
    }
    return look_up("code.decoder.unit_embedding", kind, kinds)(num_units, emb_dim)
