"""Measure the gap between the true and the predicted posterior mean over t, with and without the code.

    gap_t = E || mu(z_t, z_0) - mu(z_t, z0_hat) ||^2 / (C h w)
          = beta_t^2 / (alpha_t (1 - alpha_bar_t)) * E mean((eps - eps_hat)^2)

PDAE (Zhang et al. 2022, arXiv:2212.12990) motivates its method with this quantity: information about the
image is lost in z_t, so the frozen model misses the posterior mean; the gradient field uses the code to close
part of the gap.
Deviation: the released script adds uniform noise; here the noise is normal, as in training.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from disdiff.editing.units import in_batches
from disdiff.method.model import DisDiff, shift_eps, training_coefficient
from ldm.data.arrays import silent
from ldm.diffusion.loss import denoising_error
from ldm.diffusion.process import q_sample, sample_noise
from ldm.diffusion.schedule import Schedule

FIRST = 50  # first step of the summary; towards t = 0 the correction vanishes


def gap_factor(schedule: Schedule) -> Tensor:
    """Factor that converts the squared error of eps to that of the posterior mean, shape (T,)."""
    return schedule.beta.square() / (schedule.alpha * schedule.noise_variance)


@torch.no_grad()
def compute_mean_gap(
    model: DisDiff,
    image: Tensor,
    steps: Tensor,
    generator: torch.Generator,
    progress: Callable[[float], None] = silent,
) -> Tensor:
    """Gaps at the diffusion steps `steps` (S,), averaged over images (B, 3, H, W) in [-1, 1].

    The model is a DisDiff or PDAE in eval mode; `progress` is called with the completed fraction.

    Returns:
        Gaps of the frozen model and of the corrected one, shape (2, S) float64, on the CPU.
    """
    coefficient, factor = training_coefficient(model.schedule), gap_factor(model.schedule)
    z_0 = in_batches(model.latent_space.encode, image)
    code = in_batches(model.encode, image)

    def measure(z: Tensor, c: Tensor, step: int) -> Tensor:
        """Squared errors of the frozen and the corrected prediction of z (B, C, h, w) at one step."""
        t, eps = torch.full((len(z),), step, device=z.device), sample_noise(z, generator)
        prediction = model.predict(q_sample(model.schedule, z, t, eps), t, c)
        corrected = shift_eps(prediction.eps_base, coefficient, t, prediction.grad.sum(dim=1))
        errors = [denoising_error(eps_hat, eps, "l2") for eps_hat in (prediction.eps_base, corrected)]
        return torch.stack(errors, dim=1)  # (B, 2)

    gaps = []
    for i, step in enumerate(steps.tolist()):
        errors = in_batches(lambda z, c, step=step: measure(z, c, step), z_0, code)
        gaps.append((factor[step] * errors.mean(dim=0)).cpu().double())
        progress((i + 1) / len(steps))
    return torch.stack(gaps, dim=1)


def summarise_gap(steps: Tensor, gaps: Tensor, first: int = FIRST) -> dict[str, object]:
    """Summarise gaps (2, S) for JSON.

    From step `first` on, the summary has the fraction of measured steps at which the correction lowers the
    gap, and the mean ratio of the gaps.
    """
    later = steps >= first
    ratio = gaps[1] / gaps[0]
    return {
        "t": steps.tolist(),
        "frozen": gaps[0].tolist(),
        "corrected": gaps[1].tolist(),
        "lowered_share": (ratio[later] < 1).double().mean().item(),
        "mean_ratio": ratio[later].mean().item(),
        "first": first,
        "last": steps[-1].item(),
        "num_steps": int(later.sum()),
    }
