"""Sampling in which a code takes part at some steps only; an unconditional model predicts at the others.

Two published samplers are such windows of T = 1000 steps: InfoDiffusion's two phases (the code from t = 499
down) and PDAE's unconditional sampling (no correction in the last three tenths).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from disdiff.baselines.conditional import during
from disdiff.editing.units import in_batches
from disdiff.method.model import DiffusionModel
from ldm.diffusion.sampler import EpsFunction, SamplerConfig, sample
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError

LATE_AND_EARLY = (1.0, 0.01)  # signal-to-noise ratios above which, and below which, a stage of sampling lies


def split_stages(schedule: Schedule) -> dict[str, tuple[int, int]]:
    """PDAE's three stages of sampling in the order in which they come, as windows of `draw_windowed`.

    Early while the noise is more than a hundred times as strong as the signal, late once the signal is the
    stronger; PDAE's weight lambda_t has its maximum between, at SNR = 1 / 9.
    Deviation: these boundaries are ours; of the paper we know the names of the stages only.
    """
    late, early = (int((schedule.snr >= snr).sum()) for snr in LATE_AND_EARLY)
    return {"early": (early, schedule.num_steps), "critical": (late, early), "late": (0, late)}


def check_window(window: tuple[int, int], schedule: Schedule) -> tuple[int, int]:
    """Return (first, last) if first <= t < last are steps of the schedule, none of them included.

    Raises:
        UserError: they are not.
    """
    first, last = window
    if not 0 <= first <= last <= schedule.num_steps:
        raise UserError(f"the steps {first} to {last} are none of 0 to {schedule.num_steps}; choose others")
    return first, last


def draw_windowed(
    model: DiffusionModel,
    elsewhere: EpsFunction,
    code: Tensor,
    z_T: Tensor,
    window: tuple[int, int],
    sampler: SamplerConfig,
    generator: torch.Generator,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Images of codes that take part at some steps only.

    Args:
        model: of the codes.
        elsewhere: the unconditional noise prediction, from `find_unconditional`.
        code: shape (n, N, D).
        z_T: noise to start from, shape (n, C, h, w).
        window: (first, last): the code takes part at steps first <= t < last.
        sampler: which sampler.
        generator: source of new noise, for samplers that add any.
        progress: called with the share that is done.

    Returns:
        Shape (n, 3, H, W), clamped to [-1, 1].
    """

    def make(part: Tensor, noise: Tensor) -> Tensor:
        """Images of one batch of codes (B, N, D) and noise (B, C, h, w)."""
        eps_fn = during(*window, model.eps_fn(part), elsewhere)
        z_0 = sample(sampler, eps_fn, model.schedule, noise, generator)
        return model.latent_space.decode(z_0).clamp(-1, 1)

    return in_batches(make, code, z_T, progress=progress)
