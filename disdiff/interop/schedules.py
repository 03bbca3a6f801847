"""The noise schedule of a foreign checkpoint: derived from its betas, compared with what else is stored."""

import torch
from torch import Tensor

from disdiff.interop.placing import Pool
from disdiff.method.model import sampling_coefficient, training_coefficient
from ldm.diffusion.schedule import KINDS, Schedule, ScheduleConfig, compute_beta
from ldm.errors import UserError

TOLERANCE = 1e-4  # largest difference between stored and recomputed schedule values, over the largest value


def read_schedule(betas: Tensor) -> ScheduleConfig:
    """The noise schedule with the given betas, shape (T,).

    Raises:
        UserError: none of our schedules has these betas.
    """
    if betas.ndim != 1 or not len(betas) or not 0 < betas[0] <= betas[-1] < 1:
        raise UserError(
            "the stored betas are not a noise schedule; the file is damaged, so download it again"
        )
    whole = 6 if rounding(betas) < TOLERANCE else 2  # half precision: the fewest digits that agree
    for digits in range(whole, 7):
        ends = [float(f"{float(value):.{digits}g}") for value in (betas[0], betas[-1])]
        for kind in KINDS:
            config = ScheduleConfig(kind, len(betas), *ends)
            if agrees(compute_beta(config).float(), betas):
                return config
    raise UserError(
        "the stored betas follow neither the linear nor the scaled linear schedule; give a checkpoint with "
        "one of these"
    )


def check_schedule(pool: Pool, schedule: Schedule) -> None:
    """Raise UserError if schedule values that a file stores are not those of our schedule."""
    stored = {
        "alphas_cumprod": schedule.alpha_bar,
        "posterior_variance": schedule.posterior_variance,
        "shift_coef": training_coefficient(schedule),
        "ddim_coef": sampling_coefficient(schedule),
    }
    for label, tensors in zip(pool.labels, pool.files, strict=True):
        if "betas" in tensors and not agrees(schedule.beta, tensors["betas"].load()):
            raise UserError(
                f"{label} has a different noise schedule (betas) than a later file; give files of one model"
            )
        for name, ours in stored.items():
            if name in tensors and not agrees(ours, tensors[name].load()):
                raise UserError(
                    f"the stored {name} does not follow from the stored betas; {label} is damaged"
                )


def agrees(ours: Tensor, theirs: Tensor) -> bool:
    """Whether stored values equal ours up to the rounding of their type; files may use half precision."""
    return deviation(ours, theirs) < max(TOLERANCE, rounding(theirs))


def rounding(tensor: Tensor) -> float:
    """Rounding error of a tensor's type, relative to the largest value."""
    return 2 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value; infinite for different shapes."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs.float()).abs().max() / theirs.abs().max())
