"""The released first stages once more: written for these tests alone, under the released names."""

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class Part(nn.Module):
    """A module with named children and no forward of its own."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class AutoencoderBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.norm1, self.conv1 = norm(i), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = norm(o), nn.Conv2d(o, o, 3, padding=1)
        if i != o:
            self.nin_shortcut = nn.Conv2d(i, o, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AutoencoderAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (layer(y).reshape(b, c, h * w) for layer in (self.q, self.k, self.v))
        weight = torch.bmm(q.transpose(1, 2), k) * c**-0.5
        mixed = torch.bmm(v, weight.softmax(dim=2).transpose(1, 2))
        return x + self.proj_out(mixed.reshape(b, c, h, w))


def middle(c):
    return Part(
        block_1=AutoencoderBlock(c, c), attn_1=AutoencoderAttention(c), block_2=AutoencoderBlock(c, c)
    )


def level(i, o, blocks, attends):
    return Part(
        block=nn.ModuleList([AutoencoderBlock(i if j == 0 else o, o) for j in range(blocks)]),
        attn=nn.ModuleList([AutoencoderAttention(o) for _ in range(blocks * attends)]),
    )


def run_level(part, h):
    for j, block in enumerate(part.block):
        h = block(h)
        if len(part.attn):
            h = part.attn[j](h)
    return h


class ReleasedAutoencoder(nn.Module):
    """VQModelInterface or AutoencoderKL."""

    def __init__(self, kind="vq", ch=32, mult=(1, 2, 2), blocks=1, z=3, attends=(2,), codes=20):
        super().__init__()
        self.kind, widths, top = kind, [ch * m for m in mult], ch * mult[-1]
        moments = 2 * z if kind == "kl" else z
        down, up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            down.append(level(widths[i - 1] if i else ch, width, blocks, i in attends))
            after = widths[i + 1] if i + 1 < len(widths) else top
            up.append(level(after, width, blocks + 1, i in attends))
            if i < len(widths) - 1:
                down[-1].downsample = Part(conv=nn.Conv2d(width, width, 3, stride=2))
            if i:
                up[-1].upsample = Part(conv=nn.Conv2d(width, width, 3, padding=1))
        self.encoder = Part(
            conv_in=nn.Conv2d(3, ch, 3, padding=1), down=down, mid=middle(top), norm_out=norm(top),
            conv_out=nn.Conv2d(top, moments, 3, padding=1),
        )  # fmt: skip
        self.decoder = Part(
            conv_in=nn.Conv2d(z, top, 3, padding=1), mid=middle(top), up=up, norm_out=norm(ch),
            conv_out=nn.Conv2d(ch, 3, 3, padding=1),
        )  # fmt: skip
        self.quant_conv, self.post_quant_conv = nn.Conv2d(moments, moments, 1), nn.Conv2d(z, z, 1)
        if kind == "vq":
            self.quantize = Part(embedding=nn.Embedding(codes, z))

    def encode(self, x):
        h, net = self.encoder.conv_in(x), self.encoder
        for part in net.down:
            h = run_level(part, h)
            if hasattr(part, "downsample"):
                h = part.downsample.conv(F.pad(h, (0, 1, 0, 1)))
        h = net.mid.block_2(net.mid.attn_1(net.mid.block_1(h)))
        h = self.quant_conv(net.conv_out(F.silu(net.norm_out(h))))
        return h if self.kind == "vq" else h.chunk(2, dim=1)[0]

    def decode(self, z, quantize=True):
        if self.kind == "vq" and quantize:
            flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
            index = torch.cdist(flat, self.quantize.embedding.weight).argmin(dim=1)
            b, c, h, w = z.shape
            z = self.quantize.embedding(index).reshape(b, h, w, c).permute(0, 3, 1, 2)
        net = self.decoder
        h = net.conv_in(self.post_quant_conv(z))
        h = net.mid.block_2(net.mid.attn_1(net.mid.block_1(h)))
        for part in reversed(net.up):
            h = run_level(part, h)
            if hasattr(part, "upsample"):
                h = part.upsample.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return net.conv_out(F.silu(net.norm_out(h)))
