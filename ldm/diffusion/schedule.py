"""Noise schedules: beta for each of T diffusion steps, and the quantities derived from it.

    alpha_t = 1 - beta_t,   alpha_bar_t = alpha_1 ... alpha_t,   snr_t = alpha_bar_t / (1 - alpha_bar_t)
    q(z_t | z_0) = N(sqrt(alpha_bar_t) z_0, (1 - alpha_bar_t) I)

Steps count from 0 (least noise) to T - 1. `CLEAN` (-1) stands for the clean latent, one step before 0.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239 (Sections 2 and 3.2).
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldm.errors import UserError, check_option

CLEAN = -1
KINDS = ("scaled_linear", "linear")


@dataclass
class ScheduleConfig:
    """Evenly spaced betas (`linear`) or square roots of beta (`scaled_linear`, as in latent diffusion)."""

    kind: str = "scaled_linear"
    num_steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0155


class Level(NamedTuple):
    """Signal and noise coefficient of one step as Python floats: z_t = signal * z_0 + noise * eps."""

    signal: float
    noise: float

    @property
    def log_snr(self) -> float:
        """Half the logarithm of the signal-to-noise ratio, DPM-Solver's lambda; infinite when clean."""
        return math.log(self.signal / self.noise) if self.noise > 0 else math.inf


class Schedule(nn.Module):
    """The schedule's sequences, each of shape (T,), computed in float64 and stored as float32 buffers.

    The buffers follow the module's device. They are not in checkpoints, as the configuration defines them.

    Attributes:
        beta: variance added by a step.
        alpha: 1 - beta.
        alpha_bar: cumulative product of alpha, falling from almost 1 to almost 0.
        alpha_bar_prev: alpha_bar one step earlier; 1 for the first step.
        noise_variance: 1 - alpha_bar, stored because computing it in float32 loses digits at small t.
        snr: alpha_bar / (1 - alpha_bar).
        posterior_variance: beta (1 - alpha_bar_prev) / (1 - alpha_bar), DDPM Eq. (7); 0 at the first step.

    Raises:
        UserError: the configuration is invalid, or alpha_bar of the last step is 0 in float32.
    """

    beta: Tensor
    alpha: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor
    noise_variance: Tensor
    snr: Tensor
    posterior_variance: Tensor

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__()
        beta = compute_beta(config)
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        if alpha_bar[-1] < torch.finfo(torch.float32).tiny:
            raise UserError(
                f"the noise schedule leaves no signal at its last step (alpha_bar {alpha_bar[-1]:.1e}); "
                "lower beta_end or num_steps"
            )
        alpha_bar_prev = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        sequences = {
            "beta": beta,
            "alpha": 1 - beta,
            "alpha_bar": alpha_bar,
            "alpha_bar_prev": alpha_bar_prev,
            "noise_variance": 1 - alpha_bar,
            "snr": alpha_bar / (1 - alpha_bar),
            "posterior_variance": beta * (1 - alpha_bar_prev) / (1 - alpha_bar),
        }
        for name, values in sequences.items():
            self.register_buffer(name, values.float(), persistent=False)
        self._alpha_bar = tuple(alpha_bar.tolist())

    @property
    def num_steps(self) -> int:
        """The number of steps T."""
        return len(self._alpha_bar)

    def level(self, step: int) -> Level:
        """Return signal and noise at `step`, from 0 to T - 1 or `CLEAN`, without a device synchronisation.

        Raises:
            ValueError: the step is outside the schedule.
        """
        if not CLEAN <= step < self.num_steps:
            raise ValueError(f"expected a step from {CLEAN} (clean) to {self.num_steps - 1}, got {step}")
        alpha_bar = 1.0 if step == CLEAN else self._alpha_bar[step]
        return Level(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))


def compute_beta(config: ScheduleConfig) -> Tensor:
    """Return beta of every step.

    Returns:
        Shape (T,), float64, not decreasing, in (0, 1).

    Raises:
        UserError: the kind is unknown, num_steps is below 1, or not 0 < beta_start <= beta_end < 1.
    """
    start, end = config.beta_start, config.beta_end
    if config.num_steps < 1:
        raise UserError(
            f"a noise schedule needs at least 1 step, got {config.num_steps}; set num_steps to e.g. 1000"
        )
    if not 0 < start <= end < 1:
        raise UserError(
            f"a noise schedule needs 0 < beta_start <= beta_end < 1, got {start} and {end}; "
            "use e.g. 0.0015 and 0.0155"
        )
    check_option("schedule.kind", config.kind, KINDS)
    if config.kind == "linear":
        return torch.linspace(start, end, config.num_steps, dtype=torch.float64)
    return torch.linspace(start**0.5, end**0.5, config.num_steps, dtype=torch.float64) ** 2


def gather(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Entries of `values` (T,) at the steps `t` (B,), int64, in the shape and dtype of factors for `like`.

    Returns:
        Shape (B, 1, ..., 1), for `like` of shape (B, ...).

    Raises:
        ValueError: t does not have one step per sample.
    """
    if t.shape != like.shape[:1]:
        raise ValueError(f"expected t of shape {tuple(like.shape[:1])}, got {tuple(t.shape)}")
    return values[t].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
