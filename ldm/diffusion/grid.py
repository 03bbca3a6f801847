"""Grids of steps: which of the T steps a sampler visits, from T - 1 down to 0 and on to the clean latent.

A grid of S steps costs S calls of the network. Both grids include both ends. Starting below T - 1 would tell
the network of less noise than there is. The last jump returns z0_hat, the mean of all latents that the noise
leaves possible, and the noise is least at t = 0.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.schedule import CLEAN, Level, Schedule
from ldm.errors import UserError

Progress = Callable[[Iterable], Iterable]


def time_grid(num_train_steps: int, num_steps: int) -> Tensor:
    """Return steps evenly spaced in t, the grid of DDPM and DDIM; a single step is T - 1.

    Deviation: latent diffusion takes every (T // S)-th step from t = 1 and so stops short of T - 1.

    Args:
        num_train_steps: T, the length of the schedule.
        num_steps: S, from 1 to T.

    Returns:
        Decreasing steps, shape (S,), int64.

    Raises:
        UserError: S is not in [1, T].
    """
    _check(num_train_steps, num_steps)
    return torch.linspace(num_train_steps - 1, 0, num_steps, dtype=torch.float64).round().long()


def log_snr_grid(schedule: Schedule, num_steps: int) -> Tensor:
    """Return the steps nearest to even spacing in log-SNR, the grid of DPM-Solver; a single step is T - 1.

    Near t = 0 one step covers much log-SNR: where targets fall together, they take the next free steps.

    Args:
        schedule: the noise schedule, of T steps.
        num_steps: S, from 1 to T.

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
    schedule: Schedule, grid: Tensor, z: Tensor, progress: Progress | None, upwards: bool = False
) -> Iterator[tuple[Tensor, Level, Level]]:
    """Go from each step of a grid to the next, the last being the clean latent.

    Args:
        schedule: the noise schedule.
        grid: decreasing steps, shape (S,), int64.
        z: the batch that walks, shape (B, ...).
        progress: wraps the list of jumps, such as tqdm; None for no display.
        upwards: take the jumps in reverse order, the clean latent's first; each still points downwards.

    Yields:
        t, the upper step once per sample, shape (B,), int64, on z's device; its level; the lower one's.
    """
    jumps = list(pairwise([*grid.tolist(), CLEAN]))
    if upwards:
        jumps.reverse()
    for step, next_step in jumps if progress is None else progress(jumps):
        t = torch.full(z.shape[:1], step, dtype=torch.int64, device=z.device)
        yield t, schedule.level(step), schedule.level(next_step)


def _check(num_train_steps: int, num_steps: int) -> None:
    """Refuse a number of steps that no grid has."""
    if not 1 <= num_steps <= num_train_steps:
        raise UserError(
            f"cannot sample in {num_steps} steps; choose from 1 to the noise schedule's {num_train_steps}"
        )
