"""The latent DPM: a diffusion model of a trained system's codes, for unconditional sampling.

A code is flattened to d numbers, and each is standardised over the training images. A multi-layer perceptron
predicts the noise of the diffused code; every layer reads x_t again:

    h <- SiLU(LN((1 + s(t)) W [h, x_t]))

as in Diff-AE (Preechakul et al. 2022, arXiv:2111.15640) and PDAE (Zhang et al. 2022, arXiv:2212.12990), which
use beta = 0.008 throughout and an L1 error.
Deviations: PDAE's released sampler clamps noise and predicted codes to one standard deviation, which reduces
diversity; here nothing is clamped. InfoDiffusion's codes are also standardised, and use this schedule instead
of the images' schedule.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.diffusion.process import sample_noise_shape
from ldm.diffusion.sampler import sample_ddim
from ldm.diffusion.schedule import Schedule, ScheduleConfig
from ldm.nn.layers import embed_time
from ldm.training.optimizer import TrainConfig

TIME_DIM = 64
SMALLEST_STD = 1e-4  # lower limit, for numbers that hardly vary


@dataclass
class LatentDPMConfig:
    """The optional stage after `code`; the defaults suit small codes on a CPU.

    Attributes:
        enabled: whether to train this stage.
        hidden: width of the layers.
        num_layers: number of layers, including the last, linear one.
        dropout: rate in all layers except the last.
        loss: norm of the noise error, `l1` or `l2`.
    """

    enabled: bool = False
    hidden: int = 192
    num_layers: int = 5
    dropout: float = 0.0
    loss: str = "l1"
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig("linear", 1000, beta_start=0.008, beta_end=0.008)
    )
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            images=512_000,
            batch_size=256,
            learning_rate=1e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.998,
        )
    )


class SkipLayer(nn.Module):
    """A linear layer scaled by the time embedding, then LayerNorm, SiLU and dropout."""

    def __init__(self, in_dim: int, out_dim: int, emb_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(in_dim, out_dim), nn.Linear(emb_dim, out_dim)
        self.norm, self.dropout = nn.LayerNorm(out_dim), nn.Dropout(dropout)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Apply to `h` (B, in_dim) with the time embedding (B, emb_dim)."""
        scaled = self.linear(h) * (1 + self.scale(F.silu(emb)))
        return self.dropout(F.silu(self.norm(scaled)))


class SkipMLP(nn.Module):
    """Predicts the noise in x_t (B, d); every layer after the first also reads x_t."""

    def __init__(self, dim: int, config: LatentDPMConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.time_mlp = nn.Sequential(nn.Linear(TIME_DIM, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        widths = [dim, *[hidden + dim] * (config.num_layers - 1)]
        self.layers = nn.ModuleList(SkipLayer(width, hidden, hidden, config.dropout) for width in widths[:-1])
        self.out = nn.Linear(widths[-1], dim)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Noise in `x_t` (B, d) at steps `t` (B,)."""
        emb, h = self.time_mlp(embed_time(t, TIME_DIM).to(x_t.dtype)), None
        for layer in self.layers:
            h = layer(x_t if h is None else torch.cat([h, x_t], dim=1), emb)
        return self.out(x_t if h is None else torch.cat([h, x_t], dim=1))


class LatentDPM(nn.Module):
    """A diffusion model of codes (N, D), including their standardisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: LatentDPMConfig, code_shape: tuple[int, int]) -> None:
        super().__init__()
        self.network = SkipMLP(code_shape[0] * code_shape[1], config)
        self.schedule = Schedule(config.schedule)
        self.register_buffer("mean", torch.zeros(code_shape))
        self.register_buffer("std", torch.ones(code_shape))

    def fit_standardisation(self, codes: Tensor) -> None:
        """Set mean and standard deviation of every number from codes (n, N, D)."""
        self.mean.copy_(codes.mean(dim=0))
        self.std.copy_(codes.std(dim=0).clamp(min=SMALLEST_STD))

    def standardise(self, code: Tensor) -> Tensor:  # code => x
        """Flattened standardised numbers of `code` (B, N, D), shape (B, N * D)."""
        return ((code - self.mean) / self.std).flatten(1)

    def restore(self, x: Tensor) -> Tensor:  # x => code
        """Codes (B, N, D) of standardised numbers (B, N * D)."""
        return x.unflatten(1, self.mean.shape) * self.std + self.mean

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predicted noise in `x_t` (B, N * D) at steps `t` (B,)."""
        return self.network(x_t, t)

    def sample(self, num_codes: int, num_steps: int, generator: torch.Generator) -> Tensor:
        """Sample new codes by deterministic DDIM, shape (num_codes, N, D)."""
        noise = sample_noise_shape((num_codes, self.mean.numel()), generator, self.mean.device)
        return self.restore(sample_ddim(self, self.schedule, noise, num_steps))
