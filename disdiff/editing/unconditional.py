"""Sampling that uses the code at some steps only, and an unconditional model at the other steps.

Two published samplers have this form, with T = 1000 steps: InfoDiffusion's two-phase sampling uses the code
from t = 499 down, and PDAE's unconditional sampling uses no code in the last 30 % of the steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from disdiff.baselines.conditional import switch_by_step
from disdiff.editing.units import in_batches
from disdiff.method.model import DiffusionModel
from ldm.data.arrays import silent
from ldm.diffusion.sampler import EpsFunction, SamplerConfig, sample
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError

LATE_AND_EARLY = (1.0, 0.01)  # the late stage has a signal-to-noise ratio above 1, the early stage below 0.01


def split_stages(schedule: Schedule) -> dict[str, tuple[int, int]]:
    """PDAE's three stages of sampling in temporal order, as windows for `draw_windowed`.

    The early stage has SNR < 0.01, the late stage SNR > 1, and the critical stage lies between. PDAE's weight
    lambda_t is largest in the critical stage, at SNR = 1 / 9.
    Deviation: these boundaries are ours; we know only the names of the stages from the paper.
    """
    late, early = (int((schedule.snr >= snr).sum()) for snr in LATE_AND_EARLY)
    return {"early": (early, schedule.num_steps), "critical": (late, early), "late": (0, late)}


def check_window(window: tuple[int, int], schedule: Schedule) -> tuple[int, int]:
    """Return (first, last) if first <= t < last are steps of the schedule, or none; else raise UserError."""
    first, last = window
    if not 0 <= first <= last <= schedule.num_steps:
        raise UserError(
            f"the window {first} to {last} is not within 0 to {schedule.num_steps}; choose another"
        )
    return first, last


def draw_windowed(
    model: DiffusionModel,
    elsewhere: EpsFunction,
    code: Tensor,
    z_T: Tensor,
    window: tuple[int, int],
    sampler: SamplerConfig,
    generator: torch.Generator,
    progress: Callable[[float], None] = silent,
) -> Tensor:
    """Sample images (n, 3, H, W), clamped to [-1, 1], that use their codes at some steps only.

    Args:
        model: model of the codes.
        elsewhere: unconditional noise prediction for the other steps, from `find_unconditional`.
        code: codes, shape (n, N, D).
        z_T: noise to start from, shape (n, C, h, w).
        window: (first, last); the code is used at steps first <= t < last.
        sampler: sampler configuration.
        generator: source of the noise that stochastic samplers add.
        progress: called with the completed fraction, from 0 to 1.
    """

    def make(part: Tensor, noise: Tensor) -> Tensor:
        """Images of one batch of codes (B, N, D) and noise (B, C, h, w)."""
        eps_fn = switch_by_step(*window, model.eps_fn(part), elsewhere)
        z_0 = sample(sampler, eps_fn, model.schedule, noise, generator)
        return model.latent_space.decode(z_0).clamp(-1, 1)

    return in_batches(make, code, z_T, progress=progress)
