"""Step grids of the samplers: which of the T diffusion steps a sampler visits.

A grid of S steps costs S calls of the network. Both grids start at T - 1 and end at 0; the last jump goes
from 0 to the clean latent. A grid that started below T - 1 would give the network a t with less noise than
z_T has. The last jump returns z0_hat, the mean over all latents that could have led to z_t; it is most exact
at t = 0, where the noise is least.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.schedule import CLEAN, Level, Schedule
from ldm.errors import UserError


def time_grid(num_train_steps: int, num_steps: int) -> Tensor:
    """Return S = `num_steps` steps evenly spaced in t, the grid of DDPM and DDIM; a single step is T - 1.

    Deviation: latent diffusion takes every (T // S)-th step from t = 1, so its grid does not reach T - 1.

    Returns:
        Decreasing steps of the T = `num_train_steps` of the schedule, shape (S,), int64.

    Raises:
        UserError: S is not in [1, T].
    """
    _check(num_train_steps, num_steps)
    return torch.linspace(num_train_steps - 1, 0, num_steps, dtype=torch.float64).round().long()


def log_snr_grid(schedule: Schedule, num_steps: int) -> Tensor:
    """Return the S = `num_steps` steps nearest to even spacing in log-SNR, the grid of DPM-Solver.

    Near t = 0 one step covers much log-SNR, so several targets may be nearest to the same step; they then
    take the next free steps. A single step is T - 1.

    Returns:
        Decreasing steps, shape (S,), int64.

    Raises:
        UserError: S is not in [1, T].
    """
    total = schedule.num_steps
    _check(total, num_steps)
    log_snr = torch.tensor([schedule.level(step).log_snr for step in range(total)], dtype=torch.float64)
    targets = torch.linspace(log_snr[-1].item(), log_snr[0].item(), num_steps, dtype=torch.float64)
    nearest = (log_snr - targets[:, None]).abs().argmin(1)
    lowest = torch.arange(num_steps - 1, -1, -1)  # the i-th step has S - 1 - i others below it
    slack = (nearest - lowest).clamp(max=total - num_steps)
    return lowest + slack.flip(0).cummax(0).values.flip(0)


def walk(
    schedule: Schedule, grid: Tensor, z: Tensor, upwards: bool = False
) -> Iterator[tuple[Tensor, Level, Level]]:
    """Iterate over the jumps from each step of `grid` (S,) to the next; the last goes to the clean latent.

    With `upwards` the jumps come in reverse order, from the clean latent up; each tuple is unchanged.

    Yields:
        t, the upper step repeated for each sample of `z` (B, ...), shape (B,), int64, on z's device; the
        level of the upper step; the level of the lower step.
    """
    jumps = list(pairwise([*grid.tolist(), CLEAN]))
    for step, next_step in reversed(jumps) if upwards else jumps:
        t = torch.full(z.shape[:1], step, dtype=torch.int64, device=z.device)
        yield t, schedule.level(step), schedule.level(next_step)


def _check(num_train_steps: int, num_steps: int) -> None:
    """Raise UserError if the number of steps is not in [1, T]."""
    if not 1 <= num_steps <= num_train_steps:
        raise UserError(
            f"cannot sample in {num_steps} steps; choose from 1 to the noise schedule's {num_train_steps}"
        )
