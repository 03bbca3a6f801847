"""The denoiser: a U-Net in two halves, with the down path's features as the interface between them.

`UNet.features(z_t, t)` runs the time embedding and the down path; `UNet.decode(features)` runs the middle and
the up path. Another `UNetDecoder` can read the same features, as the gradient decoders of PDAE and DisDiff
do. A condition enters every residual block through its adaptive norm (`cond_affine` `scale_shift` or
`scale`), or as tokens through a cross-attention after each block (`attention`). Layout and initialisation
follow latent diffusion (Rombach et al. 2022, arXiv:2112.10752).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldm.errors import UserError, look_up
from ldm.nn.layers import (
    CrossAttention,
    Resample,
    ResBlock,
    SelfAttention,
    build_norm,
    embed_time,
    normalise,
    zero_init,
)


@dataclass
class UNetConfig:
    """Size of a U-Net.

    Attributes:
        channels: width at full resolution.
        channel_mult: width of each level as a multiple of `channels`; each level halves the resolution.
        num_res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_levels: levels (0 is full resolution) with self-attention; the middle always has it.
        num_heads: heads of each attention; a negative number -c means as many heads of c channels as fit.
        dropout: rate inside residual blocks.
        num_groups: groups of GroupNorm.
        resample: `residual` resamples inside a residual block (DisDiff, LDM's churches model); `conv` uses a
            convolution; `conv_shift` does too, and its residual blocks add the time embedding instead of
            scaling by it (LDM's faces and bedrooms models).
    """

    channels: int = 64
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    num_res_blocks: int = 2
    attention_levels: list[int] = field(default_factory=lambda: [0, 1, 2])
    num_heads: int = 8
    dropout: float = 0.0
    num_groups: int = 32
    resample: str = "residual"

    @property
    def emb_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels


@dataclass
class Features:
    """Output of the down path for z_t and t, the input of a decoder.

    Attributes:
        emb: time embedding, shape (B, E).
        bottleneck: coarsest map, shape (B, C', h', w').
        skips: maps of the down path in order of creation, finest first.
    """

    emb: Tensor
    bottleneck: Tensor
    skips: tuple[Tensor, ...]

    def channels_last(self) -> "Features":
        """The same features with maps in channels-last memory layout."""
        bottleneck, *skips = (
            h.contiguous(memory_format=torch.channels_last) for h in (self.bottleneck, *self.skips)
        )
        return Features(self.emb, bottleneck, tuple(skips))


class Level(nn.Module):
    """A residual block, optionally followed by self-attention, cross-attention and resampling."""

    def __init__(
        self,
        res: ResBlock,
        attention: SelfAttention | None,
        resample: nn.Module | None = None,
        cross: CrossAttention | None = None,
    ) -> None:
        super().__init__()
        self.res, self.attention, self.resample, self.cross = res, attention, resample, cross

    def forward(
        self, h: Tensor, emb: Tensor, cond: Tensor | None = None, skip: Tensor | None = None
    ) -> Tensor:
        """Apply to `h` (B, C, H, W); see `ResBlock.forward` for the other arguments."""
        h = self.res(h, emb, cond, skip)
        if self.attention is not None:
            h = self.attention(h)
        if self.cross is not None:
            h = self.cross(h, cond)
        if isinstance(self.resample, ResBlock):
            return self.resample(h, emb, cond)
        return h if self.resample is None else self.resample(h)


class Resampling(NamedTuple):
    """Meaning of a value of `UNetConfig.resample`."""

    residual: bool
    adds_time: bool


RESAMPLINGS = {
    "residual": Resampling(residual=True, adds_time=False),
    "conv": Resampling(residual=False, adds_time=False),
    "conv_shift": Resampling(residual=False, adds_time=True),
}


class BlockFactory:
    """Builds the blocks of both halves of a U-Net with the same options."""

    def __init__(self, config: UNetConfig, emb_dim: int, cond_dim: int | None, cond_affine: str) -> None:
        attends = cond_affine == "attention"
        self.config, self.emb_dim, self.cond_affine = config, emb_dim, cond_affine
        self.cond_dim, self.context_dim = (None, cond_dim) if attends else (cond_dim, None)

    def res(self, in_channels: int, out_channels: int, resample: str | None = None) -> ResBlock:
        """A residual block."""
        return ResBlock(
            in_channels,
            out_channels,
            self.emb_dim,
            adds_time=look_up("unet.resample", self.config.resample, RESAMPLINGS).adds_time,
            cond_dim=self.cond_dim,
            cond_affine=self.cond_affine,
            resample=resample,
            dropout=self.config.dropout,
            num_groups=self.config.num_groups,
        )

    def attention(self, channels: int) -> SelfAttention:
        """A self-attention."""
        return SelfAttention(channels, self._num_heads(channels), self.config.num_groups)

    def cross(self, channels: int) -> CrossAttention | None:
        """A cross-attention to the condition's tokens; None if the condition is not given as tokens."""
        if self.context_dim is None:
            return None
        return CrossAttention(channels, self.context_dim, self._num_heads(channels), self.config.num_groups)

    def _num_heads(self, channels: int) -> int:
        heads = self.config.num_heads
        if not heads:
            raise UserError(
                "num_heads=0 is out of range; give a number of heads, or -c for heads of c channels"
            )
        return heads if heads > 0 else max(1, channels // -heads)

    def level(self, in_channels: int, out_channels: int, depth: int, resample: str | None = None) -> Level:
        """A residual block of level `depth` with its attention and resampling."""
        attention = self.attention(out_channels) if depth in self.config.attention_levels else None
        res, cross = self.res(in_channels, out_channels), self.cross(out_channels)
        return Level(res, attention, self.resample(out_channels, resample), cross)

    def resample(self, channels: int, direction: str | None) -> nn.Module | None:
        """The configured kind of resampling, or None."""
        if direction is None:
            return None
        residual = look_up("unet.resample", self.config.resample, RESAMPLINGS).residual
        return self.res(channels, channels, direction) if residual else Resample(channels, direction)


class UNetDecoder(nn.Module):
    """Middle, up path and output layer: maps features to one output per row of `emb`."""

    def __init__(
        self,
        config: UNetConfig,
        feature_config: UNetConfig,
        out_channels: int,
        cond_dim: int | None = None,
        cond_affine: str = "scale_shift",
    ) -> None:
        """Build a decoder of size `config` on the features of a U-Net of size `feature_config`.

        The two sizes may differ in width, and `config` may have fewer `num_res_blocks`. Then only the skips
        of each level that are nearest to the bottleneck are read.

        Raises:
            UserError: `config` has more residual blocks per level than `feature_config`.
        """
        super().__init__()
        if config.num_res_blocks > feature_config.num_res_blocks:
            raise UserError(
                f"a decoder of num_res_blocks={config.num_res_blocks} needs more skips than a U-Net of "
                f"num_res_blocks={feature_config.num_res_blocks} has; choose at most the latter"
            )
        blocks = BlockFactory(config, feature_config.emb_dim, cond_dim, cond_affine)
        self.num_blocks = config.num_res_blocks + 1
        self.stride = feature_config.num_res_blocks + 1
        bottleneck = config.channels * config.channel_mult[-1]
        self.middle_in = blocks.res(feature_config.channels * feature_config.channel_mult[-1], bottleneck)
        self.middle_attention = blocks.attention(bottleneck)
        self.middle_cross = blocks.cross(bottleneck)
        self.middle_out = blocks.res(bottleneck, bottleneck)
        self.up = nn.ModuleList()
        skip_channels, channels = list_skip_channels(feature_config)[::-1], bottleneck
        for depth in reversed(range(len(config.channel_mult))):
            first = (len(config.channel_mult) - 1 - depth) * self.stride
            for i in range(self.num_blocks):
                last = i == self.num_blocks - 1
                width = config.channels * config.channel_mult[depth]
                resample = "up" if last and depth else None
                self.up.append(blocks.level(channels + skip_channels[first + i], width, depth, resample))
                channels = width
        self.out_norm = build_norm(channels, config.num_groups)
        self.out_conv = zero_init(nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, features: Features, emb: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """Decode features.

        Args:
            features: of B inputs.
            emb: time embedding of B * k outputs, those of one input adjacent, shape (B * k, E); None for the
                embedding in `features`.
            cond: condition, shape (B * k, cond_dim), or its tokens, shape (B * k, M, cond_dim).

        Returns:
            Maps, shape (B * k, out_channels, h, w).
        """
        emb = features.emb if emb is None else emb
        h = self.middle_in(features.bottleneck, emb, cond)
        h = self.middle_attention(h)
        if self.middle_cross is not None:
            h = self.middle_cross(h, cond)
        h = self.middle_out(h, emb, cond)
        skips = features.skips[::-1]
        for i, level in enumerate(self.up):
            depth, block = divmod(i, self.num_blocks)
            h = level(h, emb, cond, skips[depth * self.stride + block])
        return self.out_conv(normalise(h, self.out_norm))


class UNet(nn.Module):
    """Predicts the noise in z_t; conditional on `cond` if built with `cond_dim`.

    Raises:
        UserError: the width is odd, or levels of different widths have no residual block between them.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        cond_dim: int | None = None,
        cond_affine: str = "scale_shift",
    ) -> None:
        super().__init__()
        if config.num_res_blocks == 0 and set(config.channel_mult) != {1}:
            raise UserError(
                f"unet.num_res_blocks=0 needs levels of one width, and channel_mult is "
                f"{config.channel_mult}; choose 1 or more"
            )
        if config.channels % 2:
            raise UserError(
                f"unet.channels={config.channels} is odd, and the time embedding is of sines and cosines; "
                "choose an even number"
            )
        self.config = config
        blocks = BlockFactory(config, config.emb_dim, cond_dim, cond_affine)
        self.time_mlp = nn.Sequential(
            nn.Linear(config.channels, config.emb_dim), nn.SiLU(), nn.Linear(config.emb_dim, config.emb_dim)
        )
        self.conv_in = nn.Conv2d(in_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        channels = config.channels
        for depth, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.down.append(blocks.level(channels, mult * config.channels, depth))
                channels = mult * config.channels
            if depth < len(config.channel_mult) - 1:
                self.down.append(blocks.resample(channels, "down"))
        self.decoder = UNetDecoder(config, config, in_channels, cond_dim, cond_affine)

    def features(self, z_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Features:
        """Run the down path on `z_t` (B, C, h, w) at steps `t` (B,) int64."""
        emb = self.time_mlp(embed_time(t, self.config.channels).to(z_t.dtype))
        h = self.conv_in(z_t)
        skips = [h]
        for block in self.down:
            h = block(h) if isinstance(block, Resample) else block(h, emb, cond)
            skips.append(h)
        return Features(emb, h, tuple(skips))

    def decode(self, features: Features, cond: Tensor | None = None) -> Tensor:
        """Predicted noise from features, shape (B, C, h, w)."""
        return self.decoder(features, cond=cond)

    def forward(self, z_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Predicted noise in `z_t` (B, C, h, w) at steps `t` (B,); `cond` (B, cond_dim) or None."""
        return self.decode(self.features(z_t, t, cond), cond)


def list_skip_channels(config: UNetConfig) -> list[int]:
    """Channels of each skip of the down path, in order of creation."""
    channels = [config.channels]
    for depth, mult in enumerate(config.channel_mult):
        resampled = depth < len(config.channel_mult) - 1
        channels += [mult * config.channels] * (config.num_res_blocks + resampled)
    return channels
