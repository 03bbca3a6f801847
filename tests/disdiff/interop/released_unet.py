"""The released U-Nets and factor encoders once more: for these tests alone, under the released names."""

import math

import scipy.linalg
import torch
import torch.nn.functional as F
from torch import nn


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-5)


class ResBlock(nn.Module):
    def __init__(self, i, o, emb, scales=True, shifted=False, updown=None):
        super().__init__()
        width = 2 * o if scales else o
        self.scales, self.updown = scales, updown
        self.in_layers = nn.Sequential(norm(i), nn.SiLU(), nn.Conv2d(i, o, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, width))
        if shifted:
            self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, width))
        out = nn.Conv2d(o, o, 3, padding=1)
        self.out_layers = nn.Sequential(norm(o), nn.SiLU(), nn.Dropout(0.0), out)
        self.skip_connection = nn.Identity() if i == o else nn.Conv2d(i, o, 1)

    def resample(self, x):
        if self.updown == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2, 2) if self.updown == "down" else x

    def forward(self, x, emb, cond=None):
        h = self.in_layers[2](self.resample(self.in_layers[1](self.in_layers[0](x))))
        x, e = self.resample(x), self.emb_layers(emb)[..., None, None]
        if self.scales:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            if cond is not None:
                scale, shift = self.cond_emb_layers(cond)[..., None, None].chunk(2, dim=1)
                h = h * (1 + scale) + shift
            h = self.out_layers[3](self.out_layers[1](h))
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.heads, self.norm = heads, norm(c)
        self.qkv, self.proj_out = nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x):
        b, c, *size = x.shape
        x = x.reshape(b, c, -1)
        width = c // self.heads
        q, k, v = self.qkv(self.norm(x)).reshape(b * self.heads, 3 * width, -1).split(width, dim=1)
        weight = torch.einsum("bct,bcs->bts", q / width**0.25, k / width**0.25).softmax(dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        return (x + self.proj_out(h)).reshape(b, c, *size)


class Up(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Down(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.op = nn.Conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


def run_block(block, x, emb, cond=None):
    for part in block:
        x = part(x, emb, cond) if isinstance(part, ResBlock) else part(x)
    return x


class ReleasedUNet(nn.Module):
    """The unconditional U-Net; with `units` (N, D) that of DisDiff, with its shift branch."""

    def __init__(self, channels=3, ch=32, mult=(1, 2, 2), blocks=1, attends=(1, 2), residual=True, units=None,
                 orthogonal=True):  # fmt: skip
        super().__init__()
        self.ch, self.units, self.orthogonal = ch, units, orthogonal
        self.options = dict(mult=mult, blocks=blocks, attends=attends, residual=residual)
        emb, scales = 4 * ch, residual
        heads = (lambda c: 8) if residual else (lambda c: c // 32)
        self.time_embed = nn.Sequential(nn.Linear(ch, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(channels, ch, 3, padding=1)])])
        width, ds, widths = ch, 1, [ch]
        for i, m in enumerate(mult):
            for _ in range(blocks):
                parts = [ResBlock(width, m * ch, emb, scales)]
                width = m * ch
                if ds in attends:
                    parts.append(Attention(width, heads(width)))
                self.input_blocks.append(nn.ModuleList(parts))
                widths.append(width)
            if i < len(mult) - 1:
                down = ResBlock(width, width, emb, scales, updown="down") if residual else Down(width)
                self.input_blocks.append(nn.ModuleList([down]))
                widths.append(width)
                ds *= 2
        for prefix, shifted in (("", False), ("shift_", True))[: 1 + (units is not None)]:
            self.build_half(prefix, shifted, widths, ds, emb, heads, channels)
        if units is not None:
            self.repre_embed = nn.Linear(units[1], emb)
            size = emb // 2 if orthogonal else units[1]
            self.part_latents = nn.Embedding(size if orthogonal else units[0], size)
            self.part_emb = nn.Linear(size, emb)

    def build_half(self, prefix, shifted, widths, ds, emb, heads, channels):
        o, widths, scales = self.options, list(widths), self.options["residual"]
        width = widths[-1]
        res = lambda i, out, updown=None: ResBlock(i, out, emb, scales, shifted, updown)  # noqa: E731
        blocks = [res(width, width), Attention(width, heads(width)), res(width, width)]
        setattr(self, f"{prefix}middle_block", nn.ModuleList(blocks))
        outputs = nn.ModuleList()
        for i, m in reversed(list(enumerate(o["mult"]))):
            for j in range(o["blocks"] + 1):
                parts = [res(width + widths.pop(), m * self.ch)]
                width = m * self.ch
                if ds in o["attends"]:
                    parts.append(Attention(width, heads(width)))
                if i and j == o["blocks"]:
                    parts.append(res(width, width, "up") if o["residual"] else Up(width))
                    ds //= 2
                outputs.append(nn.ModuleList(parts))
        setattr(self, f"{prefix}output_blocks", outputs)
        last = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(self.ch, channels, 3, padding=1))
        setattr(self, f"{prefix}out", last)

    def run_half(self, prefix, h, skips, emb, cond=None):
        h = run_block(getattr(self, f"{prefix}middle_block"), h, emb, cond)
        for j, block in enumerate(getattr(self, f"{prefix}output_blocks")):
            h = run_block(block, torch.cat([h, skips[-1 - j]], dim=1), emb, cond)
        return getattr(self, f"{prefix}out")(h)

    def forward(self, x, t, code=None):
        """eps (B, C, h, w); with a code (B, N, D) also the gradient fields (B, N, C, h, w)."""
        half = self.ch // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angle = t[:, None].float() * frequency
        emb = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=-1))
        h, skips = x, []
        for block in self.input_blocks:
            for part in block:
                h = part(h, emb) if isinstance(part, ResBlock) else part(h)
            skips.append(h)
        eps = self.run_half("", h, skips, emb)
        if code is None:
            return eps
        table = self.part_latents.weight
        if self.orthogonal:
            w = table.detach().double().numpy()
            table = torch.from_numpy(scipy.linalg.expm(-(w - w.T))).float()
        fields = [
            self.run_half("shift_", h, skips, emb + self.part_emb(table[k]), self.repre_embed(code[:, k]))
            for k in range(self.units[0])
        ]
        return eps, torch.stack(fields, dim=1)


class EncoderBlock(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.convs = nn.Sequential(
            nn.ReLU(), nn.Conv2d(d, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(), nn.Conv2d(d, d, 1)
        )

    def forward(self, x):
        return x + self.convs(x)


class ReleasedEncoder(nn.Module):
    """Encoder4 (64 pixels), or Encoder256."""

    def __init__(self, d, outputs, size=64):
        super().__init__()
        layers = []
        for i, active in enumerate(
            [True, True, False, True] if size == 64 else [True, True, *[False] * 3, True]
        ):
            layers += [nn.Conv2d(d if i else 3, d, 4, stride=2, padding=1), nn.BatchNorm2d(d)]
            layers += [nn.ReLU()] if active else []
        layers += [EncoderBlock(d), nn.BatchNorm2d(d), nn.ReLU(), EncoderBlock(d), nn.Flatten()]
        self.encoder = nn.Sequential(*layers, nn.Linear(16 * d, outputs))

    def forward(self, x):
        return self.encoder(x)
