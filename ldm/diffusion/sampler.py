"""DDPM, DDIM and DPM-Solver++ samplers (noise z_T => clean latent z_0) and DDIM inversion (z_0 => z_T).

Every sampler takes a noise predictor `eps_fn(z_t, t) => eps_hat`, the noise schedule and standard normal
noise z_T (B, ...), and returns clean latents z_0 (B, ...); the inversion does the opposite with the same
`eps_fn`. Guidance and edits wrap `eps_fn`, which may be any callable; `t` has shape (B,), int64, on the
latent's device. The caller decides whether gradients are recorded.

With signal_t = sqrt(alpha_bar_t), noise_t = sqrt(1 - alpha_bar_t), eps_hat = eps_fn(z_t, t) and
z0_hat = (z_t - noise_t eps_hat) / signal_t, one jump from step t down to step s is

    DDPM            z_s = posterior mean(z0_hat, z_t) + posterior standard deviation * new noise,   s = t - 1
    DDIM            z_s = signal_s z0_hat + sqrt(noise_s^2 - sigma^2) eps_hat + sigma * new noise
    DPM-Solver++    z_s = (noise_s / noise_t) z_t + (signal_s - signal_t noise_s / noise_t) D

where sigma = eta (noise_s / noise_t) sqrt(1 - signal_t^2 / signal_s^2), and D extrapolates two steps' z0_hat.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239 (DDPM).
    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", 2021, arXiv:2010.02502 (DDIM).
    Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
    arXiv:2211.01095.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.grid import log_snr_grid, time_grid, walk
from ldm.diffusion.process import posterior, predict_z0, sample_noise
from ldm.diffusion.schedule import Level, Schedule
from ldm.errors import UserError, check_option

EpsFunction = Callable[[Tensor, Tensor], Tensor]
SAMPLERS = ("ddim", "ddpm", "dpm_solver")


@dataclass
class SamplerConfig:
    """Sampler name, number of steps (`ddpm` takes all T) and `eta`, the share of new noise (`ddim` only)."""

    name: str = "ddim"
    num_steps: int = 50
    eta: float = 0.0


def sample(
    config: SamplerConfig,
    eps_fn: EpsFunction,
    schedule: Schedule,
    z_T: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw clean latents with the configured sampler.

    `generator` is the source of new noise, for `ddpm` and for `ddim` with eta above 0.

    Raises:
        UserError: the sampler is unknown, or a setting is out of range.
    """
    check_option("sampler.name", config.name, SAMPLERS)
    if config.name == "ddim":
        return sample_ddim(eps_fn, schedule, z_T, config.num_steps, config.eta, generator)
    if config.name == "ddpm":
        return sample_ddpm(eps_fn, schedule, z_T, generator)
    return sample_dpm_solver(eps_fn, schedule, z_T, config.num_steps)


def sample_ddpm(eps_fn: EpsFunction, schedule: Schedule, z_T: Tensor, generator: torch.Generator) -> Tensor:
    """Draw clean latents by ancestral sampling over all T steps, with the posterior's variance.

    This is DDPM, Algorithm 2, with the mean written as that of q(z_{t-1} | z_t, z0_hat). `generator` is the
    source of the noise that each step adds.

    Raises:
        ValueError: `generator` is None.
    """
    if generator is None:
        raise ValueError("expected a generator for DDPM, got None")
    z_t = z_T
    for t, _, there in walk(schedule, time_grid(schedule.num_steps, schedule.num_steps), z_T):
        z0_hat = predict_z0(schedule, z_t, t, eps_fn(z_t, t))
        z_t, variance = posterior(schedule, z0_hat, z_t, t)
        if there.noise > 0:
            z_t = z_t + variance.sqrt() * sample_noise(z_t, generator)
    return z_t


def sample_ddim(
    eps_fn: EpsFunction,
    schedule: Schedule,
    z_T: Tensor,
    num_steps: int,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw clean latents by DDIM, Eqs. (12) and (16), over `time_grid`.

    `eta` is the share of new noise, drawn from `generator`: from 0 (deterministic) to 1 (equal to DDPM if
    `num_steps` is T).

    Raises:
        UserError: num_steps or eta is out of range.
        ValueError: eta is above 0 and `generator` is None.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"DDIM's eta must be from 0 to 1, got {eta}; use 0 for a deterministic sampler")
    if eta > 0 and generator is None:
        raise ValueError(f"expected a generator for eta={eta}, got None")
    z_t = z_T
    for t, here, there in walk(schedule, time_grid(schedule.num_steps, num_steps), z_T):
        eps_hat = eps_fn(z_t, t)
        z0_hat = _denoise(z_t, eps_hat, here)
        variance = (eta * there.noise / here.noise) ** 2 * (1 - (here.signal / there.signal) ** 2)
        kept = max(there.noise**2 - variance, 0.0)  # rounding can make it negative
        z_t = there.signal * z0_hat + kept**0.5 * eps_hat
        if variance > 0:
            z_t = z_t + variance**0.5 * sample_noise(z_t, generator)
    return z_t


def invert_ddim(eps_fn: EpsFunction, schedule: Schedule, z_0: Tensor, num_steps: int) -> Tensor:
    """Find the noise from which deterministic DDIM samples a latent: z_0 => z_T, `time_grid` in reverse.

    To undo a jump from t to s, eps_fn is called with the step t of that jump, but with the latent z_s, since
    z_t is not known yet. The first call is with z_0 and t = 0. The result is exact if eps_fn does not depend
    on the latent; otherwise the error is of first order in the step size.

    Raises:
        UserError: num_steps out of range.
    """
    z_s, grid = z_0, time_grid(schedule.num_steps, num_steps)
    for t, here, there in walk(schedule, grid, z_0, upwards=True):
        eps_hat = eps_fn(z_s, t)
        z_s = here.signal * _denoise(z_s, eps_hat, there) + here.noise * eps_hat
    return z_s


def sample_dpm_solver(eps_fn: EpsFunction, schedule: Schedule, z_T: Tensor, num_steps: int) -> Tensor:
    """Draw clean latents by DPM-Solver++(2M), Algorithm 2, over `log_snr_grid`: deterministic, second order.

    Two jumps are of first order: the first, which has no earlier z0_hat, and the last, which is infinitely
    long in log-SNR and returns z0_hat.

    Raises:
        UserError: num_steps out of range.
    """
    z_t, previous = z_T, None
    for t, here, there in walk(schedule, log_snr_grid(schedule, num_steps), z_T):
        direction = z0_hat = _denoise(z_t, eps_fn(z_t, t), here)
        if previous is not None and there.noise > 0:
            z0_before, log_snr_before = previous
            ratio = (here.log_snr - log_snr_before) / (there.log_snr - here.log_snr)
            direction = z0_hat + (z0_hat - z0_before) / (2 * ratio)
        shrink = there.noise / here.noise
        z_t = shrink * z_t + (there.signal - shrink * here.signal) * direction
        previous = z0_hat, here.log_snr
    return z_t


def _denoise(z_t: Tensor, eps_hat: Tensor, level: Level) -> Tensor:
    """Same as `predict_z0`, for one level shared by the batch; the level may be the clean one."""
    return (z_t - level.noise * eps_hat) / level.signal
