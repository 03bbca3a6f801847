"""Convolutional encoder and decoder of the first stage (VQGAN, arXiv 2012.09841; LDM, arXiv 2112.10752).

Level i works at resolution H / 2^i with `channels * channel_mult[i]` channels, in the encoder and in the
decoder alike, so f = 2^(len(channel_mult) - 1). A residual block computes
h + conv(silu(norm(conv(silu(norm(h)))))); the middle, at the lowest resolution, is residual, attention,
residual. The topology equals that of CompVis's released code (GroupNorm with eps 1e-6, stride-2 convolution
padded right and below only), so CompVis's weights can be loaded.
"""

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.nn.layers import build_norm, convolve_doubled

EPS = 1e-6  # of every GroupNorm


@dataclass
class NetworkConfig:
    """Sizes of the encoder and the decoder; nothing depends on the image resolution."""

    in_channels: int = 3
    channels: int = 32
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4])
    num_res_blocks: int = 2  # per level; the decoder has one more
    z_channels: int = 3
    attention: bool = True  # self-attention in the middle
    attention_levels: list[int] = field(default_factory=list)  # with attention after each residual block
    num_groups: int = 32  # of every GroupNorm; layers with fewer channels use one group per channel
    patch: int = 1  # patch x patch blocks of pixels are folded into channels before the first level

    @property
    def downsampling_factor(self) -> int:
        """Image size over latent size, f."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)

    @property
    def widths(self) -> list[int]:
        """Channels of each level, from the image's resolution downwards."""
        return [self.channels * mult for mult in self.channel_mult]


def build_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution that keeps the resolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut (1x1 convolution where the channels change)."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = build_norm(in_channels, num_groups, EPS)
        self.conv1 = build_conv(in_channels, out_channels)
        self.norm2 = build_norm(out_channels, num_groups, EPS)
        self.conv2 = build_conv(out_channels, out_channels)
        changes = in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w)."""
        residual = self.conv1(F.silu(self.norm1(h)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return self.shortcut(h) + residual


class SelfAttention(nn.Module):
    """Single-head attention over the positions, softmax(q k^T / sqrt(C)) v, added to its input."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm = build_norm(channels, num_groups, EPS)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        normed = self.norm(h)
        query, key, value = (  # (B, 1, h w, C), contiguous in C, as PyTorch's fused attention needs
            project(normed).flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
            for project in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return h + self.out(attended.squeeze(1).transpose(1, 2).reshape(h.shape))


class Downsample(nn.Module):
    """Halve the resolution: 3x3 convolution of stride 2, padded on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h / 2, w / 2)."""
        return self.conv(F.pad(h, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = build_conv(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2 h, 2 w)."""
        return convolve_doubled(h, self.conv)


class Level(nn.Module):
    """The residual blocks of one resolution, each optionally followed by attention, then the resampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        attention: bool,
        num_groups: int,
        resample: nn.Module,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.blocks = nn.ModuleList(
            ResidualBlock(width, out_channels, num_groups) for width in widths[:num_blocks]
        )
        self.attentions = nn.ModuleList(
            SelfAttention(out_channels, num_groups) if attention else nn.Identity() for _ in self.blocks
        )
        self.resample = resample

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to out_channels at the next level's resolution."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h))
        return self.resample(h)


def build_middle(channels: int, config: NetworkConfig) -> nn.Sequential:
    """Residual block, attention, residual block."""
    return nn.Sequential(
        ResidualBlock(channels, channels, config.num_groups),
        SelfAttention(channels, config.num_groups) if config.attention else nn.Identity(),
        ResidualBlock(channels, channels, config.num_groups),
    )


class Encoder(nn.Module):
    """Image to features of the latent resolution: convolution, levels downwards, middle, output convolution.

    Args:
        config: the sizes.
        double_z: output 2 * z_channels (mean and log variance of a KL bottleneck) instead of z_channels.

    Raises:
        UserError: levels of different widths have no residual block to change from one to the next.
    """

    def __init__(self, config: NetworkConfig, double_z: bool = False) -> None:
        super().__init__()
        self.in_channels, self.factor = config.in_channels, config.downsampling_factor
        self.patch = config.patch
        widths = [config.channels, *config.widths]
        if config.num_res_blocks == 0 and set(config.channel_mult) != {1}:
            raise UserError(
                f"network.num_res_blocks=0 needs levels of one width, and channel_mult is "
                f"{config.channel_mult}; choose 1 or more"
            )
        self.conv_in = build_conv(config.in_channels * config.patch**2, config.channels)
        self.levels = nn.ModuleList()
        for i, width in enumerate(config.widths):
            resample = Downsample(width) if i < len(config.widths) - 1 else nn.Identity()
            attention = i in config.attention_levels
            level = Level(widths[i], width, config.num_res_blocks, attention, config.num_groups, resample)
            self.levels.append(level)
        self.middle = build_middle(widths[-1], config)
        self.norm_out = build_norm(widths[-1], config.num_groups, EPS)
        self.conv_out = build_conv(widths[-1], (2 if double_z else 1) * config.z_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, z_channels or twice that, H / f, W / f) of images (B, in_channels, H, W) in [-1, 1].

        Raises:
            ValueError: the image has another shape, or H or W is not divisible by f.
        """
        fits = image.ndim == 4 and image.shape[1] == self.in_channels
        if not fits or image.shape[2] % self.factor or image.shape[3] % self.factor:
            expected = f"(B, {self.in_channels}, H, W) with H and W divisible by {self.factor}"
            raise ValueError(f"image: expected {expected}, got {tuple(image.shape)}")
        h = self.conv_in(F.pixel_unshuffle(image, self.patch))
        for level in self.levels:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.middle(h))))


class Decoder(nn.Module):
    """Features of the latent resolution to image: convolution, middle, levels upwards, output convolution."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [*config.widths, config.widths[-1]]
        self.conv_in = build_conv(config.z_channels, widths[-1])
        self.middle = build_middle(widths[-1], config)
        self.levels = nn.ModuleList()
        for i, width in enumerate(config.widths):
            resample = Upsample(width) if i > 0 else nn.Identity()
            attention = i in config.attention_levels
            level = Level(
                widths[i + 1], width, config.num_res_blocks + 1, attention, config.num_groups, resample
            )
            self.levels.append(level)
        self.norm_out = build_norm(widths[0], config.num_groups, EPS)
        self.conv_out = build_conv(widths[0], config.in_channels * config.patch**2)
        self.patch = config.patch

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, z_channels, h, w) to images (B, in_channels, f h, f w), not clipped."""
        h = self.middle(self.conv_in(h))
        for level in reversed(self.levels):
            h = level(h)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)
