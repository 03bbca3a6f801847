"""CPU versions of self-attention and GroupNorm that keep their intermediate results in the cache.

Both operators make large intermediate tensors: attention its weights, and a norm with modulation and
activation several maps of the input's size. Here a few images at a time go through buffers that are reused.
Only input, output and statistics are saved for the backward pass, which recomputes the rest. The results
equal those of PyTorch's operators up to rounding. `prefers_attend`, `prefers_normalise` and
`prefers_channels_last` tell when these versions are faster; they are not used on other devices, in other
number formats or in `torch.compile`.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NUMBERS = 2**18  # entries that are normalised together: 1 MB of float32
PAIRS = 2**20  # most (query, key) pairs of an image, over all heads, whose weights fit in the cache
WIDTH = 8  # most channels of a head at which this attention is faster,
PIXELS = 128  # and fewest pixels
CHANNELS = 128  # fewest channels of the bottleneck at which a decoder is faster in channels-last layout
LOG2_E = 1 / math.log(2)


def supports(x: Tensor) -> bool:
    """Whether this module can work on tensors such as `x` (device, dtype, no autocast, no compilation)."""
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return plain and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def prefers_attend(qkv: Tensor, num_heads: int) -> bool:
    """Whether `attend` is faster than PyTorch's attention for `qkv` (B, M, 3 C)."""
    pixels, channels = qkv.shape[1], qkv.shape[2] // (3 * num_heads)
    return supports(qkv) and channels <= WIDTH and pixels >= PIXELS and num_heads * pixels**2 <= PAIRS


def prefers_channels_last(bottleneck: Tensor) -> bool:
    """Whether a decoder with this `bottleneck` (B, C, H, W) is faster in channels-last layout."""
    return supports(bottleneck) and bottleneck.shape[1] >= CHANNELS


def prefers_normalise(h: Tensor) -> bool:
    """Whether `normalise` is faster than PyTorch's GroupNorm for `h` (B, C, H, W)."""
    return supports(h) and h.is_contiguous(memory_format=torch.channels_last)


def attend(qkv: Tensor, num_heads: int) -> Tensor:
    """Self-attention of `qkv` (B, M, 3 C); each head is a contiguous block of [q, k, v]; shape (B, M, C)."""
    return _Attention.apply(qkv, num_heads)


def normalise(h: Tensor, num_groups: int, scale: Tensor, shift: Tensor, eps: float, activate: bool) -> Tensor:
    """Compute `GN(h) * scale + shift` of maps `h` (B, C, H, W), then SiLU if `activate`; channels last.

    `scale` and `shift` are per channel, shape (C,), or per image and channel, shape (B, C); `eps` is added to
    the variances.
    """
    scale, shift = (x.expand(len(h), -1)[:, None] for x in (scale, shift))
    pixels = h.permute(0, 2, 3, 1)
    normalised = _Norm.apply(pixels.flatten(1, 2), num_groups, scale, shift, eps, activate)
    return normalised.view_as(pixels).permute(0, 3, 1, 2)


def _split(tokens: Tensor, num_heads: int, parts: int) -> tuple[Tensor, ...]:
    """Split one image's tokens (M, heads * parts * d) into `parts` copies of shape (heads, d, M)."""
    return tokens.T.contiguous().view(num_heads, parts, -1, len(tokens)).unbind(1)


class _Attention(torch.autograd.Function):
    """Self-attention, one image at a time.

    Heads are stored as (channels, pixels) and weights as (keys, queries): matrix products with so few
    channels are fast only in this order. The softmax uses powers of 2, which take a fifth of the time of
    powers of e.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int) -> Tensor:
        batch, pixels, width = qkv.shape
        attended = qkv.new_empty(batch, pixels, width // 3)
        log_sum = qkv.new_empty(batch, num_heads, 1, pixels)  # log2 of the sum of each query's weights
        weight = qkv.new_empty(num_heads, pixels, pixels)
        for image in range(batch):
            q, k, v = _split(qkv[image], num_heads, 3)
            q *= LOG2_E / math.sqrt(q.shape[1])
            torch.bmm(k.transpose(1, 2), q, out=weight)
            largest = weight.amax(dim=1, keepdim=True)
            total = weight.sub_(largest).exp2_().sum(dim=1, keepdim=True)
            attended[image].T.copy_(torch.bmm(v, weight).div_(total).flatten(0, 1))
            torch.add(largest, total.log2_(), out=log_sum[image])
        ctx.num_heads = num_heads
        ctx.save_for_backward(qkv, attended, log_sum)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        qkv, attended, log_sum = ctx.saved_tensors
        batch, pixels, _ = qkv.shape
        grad_qkv = torch.empty_like(qkv)
        weight, change = qkv.new_empty(2, ctx.num_heads, pixels, pixels)
        for image in range(batch):
            q, k, v = _split(qkv[image], ctx.num_heads, 3)
            (g,), (out,) = (_split(x[image], ctx.num_heads, 1) for x in (grad, attended))
            scale = 1 / math.sqrt(q.shape[1])
            q *= LOG2_E * scale
            # an extra channel subtracts the term that all keys of a query share
            torch.bmm(*_subtracting(k, q, log_sum[image]), out=weight).exp2_()
            torch.bmm(*_subtracting(v, g, (g * out).sum(dim=1, keepdim=True)), out=change).mul_(weight)
            grad_q = torch.bmm(k, change).mul_(scale)
            grad_k = torch.bmm(q, change.transpose(1, 2)).div_(LOG2_E)
            grad_v = torch.bmm(g, weight.transpose(1, 2))
            grad_qkv[image].T.copy_(torch.stack([grad_q, grad_k, grad_v], dim=1).flatten(0, 2))
        return grad_qkv, None


def _subtracting(a: Tensor, b: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors whose product is `a^T b - shared`; a, b (heads, d, M), shared (heads, 1, M)."""
    minus_one = a.new_full((1, 1, 1), -1.0).expand_as(shared)
    return torch.cat([a, minus_one], dim=1).transpose(1, 2), torch.cat([b, shared], dim=1)


class _Norm(torch.autograd.Function):
    """GroupNorm of tokens (B, M, C) with scale and shift (B, 1, C); saves the statistics of each image."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, num_groups: int, scale: Tensor, shift: Tensor, eps: float, activate: bool
    ) -> Tensor:
        batch, pixels, channels = h.shape
        ctx.num_groups, ctx.activate = num_groups, activate
        ctx.images = max(1, NUMBERS // (pixels * channels))
        out, buffer = torch.empty_like(h), h.new_empty(ctx.images, pixels, channels)
        mean, factor = h.new_empty(2, batch, 1, channels)
        for rows in _pieces(batch, ctx.images):
            x, centred = h[rows], out[rows]
            square = buffer[: len(x)]
            mean[rows] = _group_mean(x.sum(dim=1, keepdim=True), num_groups, pixels)
            torch.sub(x, mean[rows], out=centred)
            variance = torch.mul(centred, centred, out=square).sum(dim=1, keepdim=True)
            factor[rows] = (_group_mean(variance, num_groups, pixels) + eps).rsqrt_()
            torch.addcmul(shift[rows], centred, factor[rows] * scale[rows], out=centred)
            if activate:
                torch.nn.functional.silu(centred, inplace=True)
        ctx.save_for_backward(h, mean, factor, scale, shift)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, mean, factor, scale, shift = ctx.saved_tensors
        batch, pixels, channels = h.shape
        grad_h = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        grad_scale, grad_shift = h.new_empty(2, batch, 1, channels)
        buffers = h.new_empty(3, ctx.images, pixels, channels)
        for rows in _pieces(batch, ctx.images):
            change, slope = grad[rows], factor[rows] * scale[rows]
            centred, before, product = buffers[:, : len(change)]
            torch.sub(h[rows], mean[rows], out=centred)
            if ctx.activate:
                torch.addcmul(shift[rows], centred, slope, out=before)
                change = torch.ops.aten.silu_backward.grad_input(change, before, grad_input=before)
            sums = change.sum(dim=1, keepdim=True)
            products = torch.mul(change, centred, out=product).sum(dim=1, keepdim=True)
            grad_shift[rows], grad_scale[rows] = sums, products * factor[rows]
            if grad_h is not None:
                constant, linear = (-_group_mean(slope * x, ctx.num_groups, pixels) for x in (sums, products))
                torch.addcmul(constant, change, slope, out=grad_h[rows])
                grad_h[rows].addcmul_(centred, linear.mul_(factor[rows].square()))
        return grad_h, None, grad_scale, grad_shift, None, None


def _pieces(batch: int, images: int) -> Iterator[slice]:
    """Slices of a batch's rows, `images` at a time."""
    return (slice(first, min(first + images, batch)) for first in range(0, batch, images))


def _group_mean(sums: Tensor, num_groups: int, pixels: int) -> Tensor:
    """Mean over each group's channels and pixels, from sums over pixels (B, 1, C); repeated to (B, 1, C)."""
    groups = sums.unflatten(2, (num_groups, -1))
    return groups.mean(dim=3, keepdim=True).div_(pixels).expand_as(groups).flatten(2)
