"""Layers of the denoiser: time embedding, attention, and a residual block.

The residual block is that of ADM (Dhariwal & Nichol 2021, arXiv:2105.05233): GroupNorm, SiLU, convolution,
then an adaptive GroupNorm. Its scale and shift come from the time embedding and, if there is one, from a
condition (PDAE, Eq. 9: time first, condition second):

    h <- (GN(h) * (1 + s_t) + b_t) * (1 + s_c) + b_c

With `adds_time` the time embedding is added before the norm instead, as in the first latent diffusion models.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.nn import cpu_kernels

TRANSPOSED_FROM = 4  # smallest side in pixels at which the transposed convolution is faster


def embed_time(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of diffusion steps `t` (B,), cosines first; shape (B, dim), dim even."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def build_norm(channels: int, num_groups: int, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm over `channels` in at most `num_groups` groups.

    Raises:
        UserError: the groups do not divide the channels.
    """
    groups = min(num_groups, channels)
    if channels % groups:
        raise UserError(
            f"{channels} channels cannot be split into {groups} groups; set the network's num_groups to "
            f"{math.gcd(channels, groups)}, or choose channels that are a multiple of {groups}"
        )
    return nn.GroupNorm(groups, channels, eps)


def zero_init(layer: nn.Module) -> nn.Module:
    """Set all parameters of `layer` to zero and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def freeze(module: nn.Module) -> nn.Module:
    """Exclude `module` from training: no gradients, evaluation mode.

    `StageTask.keep_frozen` also keeps evaluation mode when the task is switched to training mode.
    """
    return module.requires_grad_(False).eval()


def to_tokens(h: Tensor) -> Tensor:
    """Reshape maps `h` (B, C, H, W) to one token per pixel, shape (B, HW, C)."""
    return h.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Reshape tokens (B, HW, C) to maps (B, C, H, W), channels last; H and W are those of `like`."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def map_tokens(tokens: Tensor, layer: nn.Conv1d) -> Tensor:
    """Apply the convolution `layer` of width 1 to tokens (B, M, C): one matrix product.

    On a CPU it runs as a 2D convolution, because some builds of PyTorch have slow matrix products there.
    """
    if tokens.device.type != "cpu":
        return F.linear(tokens, layer.weight.squeeze(-1), layer.bias)
    pixels = tokens.contiguous().unsqueeze(2).permute(0, 3, 1, 2)
    return F.conv2d(pixels, layer.weight[..., None], layer.bias).permute(0, 2, 3, 1).flatten(1, 2)


def normalise(
    h: Tensor,
    norm: nn.GroupNorm,
    part: slice = slice(None),
    modulation: tuple[Tensor, Tensor] | None = None,
    activate: bool = True,
) -> Tensor:
    """Compute `norm(h) * scale + shift`, then SiLU if `activate`.

    Args:
        h: maps, shape (B, C, H, W); all channels of `norm`, or a part of them.
        norm: the layer that holds the groups, the weight and the bias.
        part: the channels of `norm` that `h` holds; they must be whole groups.
        modulation: scale and shift, shape (B, C) each; None for neither.
        activate: whether to apply SiLU.
    """
    weight, bias = norm.weight[part], norm.bias[part]
    num_groups = norm.num_groups * h.shape[1] // norm.num_channels
    if cpu_kernels.prefers_normalise(h):
        if modulation is not None:
            scale, shift = modulation
            weight, bias = weight * scale, torch.addcmul(shift, bias, scale)
        return cpu_kernels.normalise(h, num_groups, weight, bias, norm.eps, activate)
    h = F.group_norm(h, num_groups, weight, bias, norm.eps)
    if modulation is not None:
        scale, shift = (x[..., None, None] for x in modulation)
        h = torch.addcmul(shift, h, scale)
    return F.silu(h) if activate else h


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels of a map, residual, with a zero-initialised output."""

    def __init__(self, channels: int, num_heads: int, num_groups: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise UserError(f"{channels} channels cannot be split over {num_heads} attention heads")
        self.num_heads = num_heads
        self.norm = build_norm(channels, num_groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Attend within each map of `h` (B, C, H, W); heads are contiguous blocks of [q, k, v] channels."""
        qkv = map_tokens(to_tokens(normalise(h, self.norm, activate=False)), self.qkv)
        if cpu_kernels.prefers_attend(qkv, self.num_heads):
            attended = cpu_kernels.attend(qkv, self.num_heads)
        else:
            # PyTorch's fused attention needs contiguous channels; otherwise it uses plain matrix products.
            q, k, v = qkv.unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return h + to_map(map_tokens(attended, self.out), h)


class CrossAttention(nn.Module):
    """Attention from a map's pixels to a condition's tokens, residual, with a zero-initialised output."""

    def __init__(self, channels: int, context_dim: int, num_heads: int, num_groups: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise UserError(f"{channels} channels cannot be split over {num_heads} attention heads")
        self.num_heads = num_heads
        self.norm = build_norm(channels, num_groups)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key_value = nn.Linear(context_dim, 2 * channels)
        self.out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        """Attend from each map of `h` (B, C, H, W) to `context` (B, M, context_dim)."""
        tokens = to_tokens(normalise(h, self.norm, activate=False))
        query = map_tokens(tokens, self.query).unflatten(-1, (self.num_heads, -1))
        key_value = self.key_value(context).unflatten(-1, (2, self.num_heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # (B, heads, M, C / heads)
        attended = F.scaled_dot_product_attention(query.transpose(1, 2), key, value)  # as `SelfAttention`
        return h + to_map(map_tokens(attended.transpose(1, 2).flatten(2), self.out), h)


class ResBlock(nn.Module):
    """ADM residual block with optional condition, optional resampling and optional skip input.

    Several conditions may share one input. When `emb` has k times as many rows as `h`, or `h` k times as many
    as `skip`, row i of the smaller belongs to rows i*k ... i*k+k-1 of the larger. What depends only on the
    smaller is computed once. The result equals that of repeating the smaller first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int,
        *,
        adds_time: bool = False,
        cond_dim: int | None = None,
        cond_affine: str = "scale_shift",
        resample: str | None = None,
        dropout: float = 0.0,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_norm = build_norm(in_channels, num_groups)
        self.in_conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.adds_time = adds_time
        self.emb_affine = nn.Linear(emb_dim, out_channels if adds_time else 2 * out_channels)
        width = {"scale": 1, "scale_shift": 2}
        self.cond_affine = nn.Linear(cond_dim, width[cond_affine] * out_channels) if cond_dim else None
        self.out_norm = build_norm(out_channels, num_groups)
        self.dropout = nn.Dropout(dropout)
        self.out_conv = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(
        self, h: Tensor, emb: Tensor, cond: Tensor | None = None, skip: Tensor | None = None
    ) -> Tensor:
        """Apply the block to `h` (B, C, H, W), for K outputs (K, out_channels, H', W').

        Args:
            h: input.
            emb: time embedding, shape (K, E), K a multiple of B.
            cond: condition, shape (K, cond_dim); None if the block was built without `cond_dim`.
            skip: skip connection, shape (S, C', H, W), S a divisor of B.
        """
        if skip is None or skip.shape[0] == h.shape[0]:
            joined = h if skip is None else torch.cat([h, skip], dim=1)
            update, shortcut = self._plain_input(joined)
        else:
            update, shortcut = self._shared_skip_input(h, skip)
        update = repeat_rows(update, emb.shape[0])
        return repeat_rows(shortcut, emb.shape[0]) + self._modulated_output(update, emb, cond)

    def _plain_input(self, h: Tensor) -> tuple[Tensor, Tensor]:
        update = normalise(h, self.in_norm)
        if self.resample == "up":
            return convolve_doubled(update, self.in_conv), self.shortcut(double(h))
        if self.resample == "down":
            update, h = (F.avg_pool2d(x, 2) for x in (update, h))
        return self.in_conv(update), self.shortcut(h)

    def _shared_skip_input(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise and convolve [h, skip]; what depends only on `skip` is computed once per row of `skip`.

        GroupNorm and convolution both split over channels at a group's border. If a group has channels of
        both, its skip channels are processed with `h`.
        """
        norm, channels = self.in_norm, h.shape[1] + skip.shape[1]
        group_size = channels // norm.num_groups
        own_groups = -(-h.shape[1] // group_size)
        border = own_groups * group_size
        straddling = skip[:, : border - h.shape[1]]
        if border == channels or isinstance(self.shortcut, nn.Identity):
            return self._plain_input(torch.cat([h, repeat_rows(skip, h.shape[0])], dim=1))
        own = torch.cat([h, repeat_rows(straddling, h.shape[0])], dim=1) if straddling.shape[1] else h
        shared = skip[:, border - h.shape[1] :]

        own_part, shared_part = slice(None, border), slice(border, None)
        weight = self.in_conv.weight
        update = F.conv2d(normalise(own, norm, own_part), weight[:, own_part], self.in_conv.bias, padding=1)
        shared_update = F.conv2d(normalise(shared, norm, shared_part), weight[:, shared_part], padding=1)
        weight = self.shortcut.weight
        shortcut = F.conv2d(own, weight[:, own_part], self.shortcut.bias)
        shared_shortcut = F.conv2d(shared, weight[:, shared_part])
        return add_shared(update, shared_update), add_shared(shortcut, shared_shortcut)

    def _modulated_output(self, h: Tensor, emb: Tensor, cond: Tensor | None) -> Tensor:
        scale, shift = self._time_affine(emb)
        if self.adds_time:
            h, shift = h + shift[..., None, None], torch.zeros_like(shift)
        if self.cond_affine is not None:
            affine = self.cond_affine(F.silu(cond))
            cond_scale, cond_shift = (
                affine.chunk(2, dim=1) if affine.shape[1] > scale.shape[1] else (affine, 0)
            )
            scale, shift = scale * (1 + cond_scale), shift * (1 + cond_scale) + cond_shift
        return self.out_conv(self.dropout(normalise(h, self.out_norm, modulation=(scale, shift))))

    def _time_affine(self, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and shift of time, each (K, out_channels); the shift is what is added where time is."""
        affine = self.emb_affine(F.silu(emb))
        if self.adds_time:
            return torch.ones_like(affine), affine
        scale, shift = affine.chunk(2, dim=1)
        return 1 + scale, shift


def repeat_rows(x: Tensor, rows: int) -> Tensor:
    """Repeat each row of `x` (B, ...) to get `rows` rows; copies of a row are adjacent."""
    if x.shape[0] == rows:
        return x
    zeros = x.new_zeros(rows // x.shape[0], *[1] * (x.ndim - 1))
    return (x.unsqueeze(1) + zeros).flatten(0, 1)  # unlike repeat, a sum keeps the memory layout


def add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """`x + repeat_rows(shared, len(x))` without the copy: x (B * k, C, H, W), shared (B, C, H, W)."""
    return (x.unflatten(0, (shared.shape[0], -1)) + shared[:, None]).flatten(0, 1)


def double(h: Tensor) -> Tensor:
    """Double the resolution of `h` (B, C, H, W) by repeating every pixel."""
    return F.interpolate(h, scale_factor=2.0, mode="nearest")


def convolve_doubled(h: Tensor, conv: nn.Conv2d) -> Tensor:
    """Compute `conv(double(h))` for a padded 3x3 convolution; h (B, C, H, W), result (B, C', 2H, 2W).

    On a CPU, larger maps use a transposed convolution. It multiplies each pixel by the sum of the weights
    that its repeated copies would meet, which takes 4/9 of the operations; equal up to rounding.
    """
    if h.device.type != "cpu" or min(h.shape[2:]) < TRANSPOSED_FROM:
        return conv(double(h))
    sums = conv.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    kernel = torch.einsum("ka,lb,oiab->iokl", sums, sums, conv.weight)
    return F.conv_transpose2d(h, kernel, conv.bias, stride=2, padding=1)


class Resample(nn.Module):
    """Halve (strided convolution) or double (nearest, then convolution) the resolution; same channels."""

    def __init__(self, channels: int, direction: str) -> None:
        super().__init__()
        self.direction = direction
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if direction == "down" else 1, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Resample `h` (B, C, H, W)."""
        return convolve_doubled(h, self.conv) if self.direction == "up" else self.conv(h)
