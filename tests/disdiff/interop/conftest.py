"""The released networks once more: written for these tests alone, under the names of the released files."""

import math
import sys
import types

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import nn

from ldm.data.procedural import ProceduralShapes3D


def norm(channels, eps):
    return nn.GroupNorm(32, channels, eps=eps)


class Part(nn.Module):
    """A module with named children and no forward of its own."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class AutoencoderBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.norm1, self.conv1 = norm(i, 1e-6), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = norm(o, 1e-6), nn.Conv2d(o, o, 3, padding=1)
        if i != o:
            self.nin_shortcut = nn.Conv2d(i, o, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AutoencoderAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm(c, 1e-6)
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
            conv_in=nn.Conv2d(3, ch, 3, padding=1), down=down, mid=middle(top), norm_out=norm(top, 1e-6),
            conv_out=nn.Conv2d(top, moments, 3, padding=1),
        )  # fmt: skip
        self.decoder = Part(
            conv_in=nn.Conv2d(z, top, 3, padding=1), mid=middle(top), up=up, norm_out=norm(ch, 1e-6),
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


class ResBlock(nn.Module):
    def __init__(self, i, o, emb, scales=True, shifted=False, updown=None):
        super().__init__()
        width = 2 * o if scales else o
        self.scales, self.updown = scales, updown
        self.in_layers = nn.Sequential(norm(i, 1e-5), nn.SiLU(), nn.Conv2d(i, o, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, width))
        if shifted:
            self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, width))
        out = nn.Conv2d(o, o, 3, padding=1)
        self.out_layers = nn.Sequential(norm(o, 1e-5), nn.SiLU(), nn.Dropout(0.0), out)
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
        self.heads, self.norm = heads, norm(c, 1e-5)
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
        last = nn.Sequential(norm(width, 1e-5), nn.SiLU(), nn.Conv2d(self.ch, channels, 3, padding=1))
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


def fill(module, seed):
    """Random weights of such a size that numbers neither vanish nor explode; also running statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if "running_var" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 and "embedding" not in name else 4
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5 + offset)
    return module.eval()


class Released:
    """A whole model with its file's content."""

    def __init__(self, kind="vq", residual=True, units=None, orthogonal=True, gaussian=False):
        z = 3 if kind == "vq" else 4
        self.first_stage = fill(ReleasedAutoencoder(kind, z=z), 1)
        self.unet = fill(ReleasedUNet(z, residual=residual, units=units, orthogonal=orthogonal), 2)
        self.averaged = fill(ReleasedUNet(z, residual=residual, units=units, orthogonal=orthogonal), 3)
        self.encoder = fill(ReleasedEncoder(32, units[0] * units[1] * (1 + gaussian)), 4) if units else None
        if units:  # frozen: has no shadow
            frozen = {
                n: p
                for n, p in self.unet.state_dict().items()
                if not n.startswith(("shift", "part", "repre"))
            }
            self.averaged.load_state_dict(frozen, strict=False)

    def state_dict(self, scale=0.8):
        state = {f"model.diffusion_model.{n}": p for n, p in self.unet.state_dict().items()}
        for name, tensor in self.averaged.state_dict().items():
            if not self.encoder or name.startswith(("shift", "part", "repre")):
                state["model_ema.diffusion_model" + name.replace(".", "")] = tensor
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
        state |= {f"first_stage_model.{n}": p for n, p in self.first_stage.state_dict().items()}
        state["first_stage_model.loss.logvar"] = torch.zeros(())
        if self.encoder:
            state |= {f"cond_stage_model.{n}": p for n, p in self.encoder.state_dict().items()}
        beta = np.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2
        bar = np.cumprod(1 - beta)
        before = np.append(1.0, bar[:-1])
        arrays = {
            "betas": beta,
            "alphas_cumprod": bar,
            "sqrt_alphas_cumprod": bar**0.5,
            "posterior_variance": beta * (1 - before) / (1 - bar),
            "shift_coef": -((1 - beta) ** 0.5) * (1 - before) / (1 - bar) ** 0.5,
            "ddim_coef": -((1 - bar) ** 0.5),
        }
        state |= {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
        return {**state, "scale_factor": torch.tensor(scale)} if scale else state


@pytest.fixture
def released():
    """The released networks: functions that build them with random weights."""
    return types.SimpleNamespace(
        model=Released, autoencoder=ReleasedAutoencoder, unet=ReleasedUNet, encoder=ReleasedEncoder, fill=fill
    )


@pytest.fixture
def save_checkpoint(tmp_path):
    """Return a function that writes a state in Lightning 1.4's layout, foreign callbacks and all."""

    def save(name, state, legacy=False):
        module = types.ModuleType("lightning_of_old.callbacks")
        parent = types.ModuleType("lightning_of_old")
        for kind in ("ModelCheckpoint", "ImageLogger"):
            made = type(kind, (), {"__module__": module.__name__})
            setattr(module, kind, made)
        callback = module.ModelCheckpoint()
        callback.best_model_score, callback.dirpath = torch.tensor(0.5), "logs"
        content = {
            "epoch": 64,
            "global_step": 240_000,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": state,
            "callbacks": {module.ModelCheckpoint: {"monitor": "loss", "object": callback}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [module.ImageLogger()],
        }
        sys.modules |= {parent.__name__: parent, module.__name__: module}
        try:
            path = tmp_path / name
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        finally:
            del sys.modules[parent.__name__], sys.modules[module.__name__]
        return path

    return save


@pytest.fixture
def noise_images(monkeypatch):
    """Procedural Shapes3D whose images are noise, for speed."""
    noise = torch.rand(480, 4, 64, 64, generator=torch.Generator().manual_seed(0)) / 4
    monkeypatch.setattr(ProceduralShapes3D, "maps", noise)
