"""Sampling without an image to encode: where new codes come from, and at which steps they take part.

    data         codes of the run's evaluation images
    prior        what the code was held to in training (InfoDiffusion, beta-VAE, InfoVAE)
    latent_dpm   a diffusion model of codes (PDAE, Diff-AE, InfoDiffusion; any system trained with one)

A code may condition a window of steps only, while an unconditional model predicts at the others. Two
published samplers are such windows of T = 1000 steps: InfoDiffusion's two phases (the code from t = 499 down)
and PDAE's unconditional sampling (no correction in the last three tenths).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from disdiff.baselines.conditional import during
from disdiff.baselines.prior import PRIORS, sample_bits, term_weights
from disdiff.build import build_denoiser, build_latent_dpm, get_system
from disdiff.commands.common import load_codes_of
from disdiff.editing.units import in_batches
from disdiff.method.model import DiffusionModel, DisDiff
from disdiff.report.pictures import load_codes
from disdiff.runs.run_folder import Run
from disdiff.runs.stages import list_stages
from ldm.diffusion.sampler import EpsFunction, SamplerConfig, sample
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError, choose
from ldm.nn.layers import freeze
from ldm.training.weight_files import WEIGHTS, load_weights

CODE_STEPS = 100  # of DDIM, for codes of a latent DPM
LATE_AND_EARLY = (1.0, 0.01)  # signal-to-noise ratios above which, and below which, a stage of sampling lies
ORIGINS = {
    "data": "codes of the data set",
    "prior": "codes of the prior",
    "latent_dpm": "codes of the latent DPM",
}


def draw_codes(run: Run, origin: str, num_codes: int, generator: torch.Generator) -> Tensor:
    """New codes for a run, shape (num_codes, N, D), on its model's device.

    Args:
        run: which.
        origin: one of `ORIGINS`.
        num_codes: how many.
        generator: source of the choice or the noise.

    Raises:
        UserError: the run has no such codes.
    """
    draw = choose("--codes", origin, {"data": draw_data, "prior": draw_prior, "latent_dpm": draw_latent_dpm})
    return draw(run, num_codes, generator).to(run.model.latent_space.mean.device)


def draw_data(run: Run, num_codes: int, generator: torch.Generator) -> Tensor:
    """Codes of evaluation images, at random."""
    codes = load_codes(load_codes_of(run))
    return codes[torch.randint(len(codes), (num_codes,), generator=generator)]


def draw_prior(run: Run, num_codes: int, generator: torch.Generator) -> Tensor:
    """Codes of the prior.

    Raises:
        UserError: training held the code to none.
    """
    config = run.config
    if "prior" not in get_system(config).sections or not any(term_weights(config.prior)):
        raise UserError(f"the code of this run of {config.system} was held to no prior; use another --codes")
    bits = config.factors.encoder.posterior == "bernoulli"
    draw = sample_bits if bits else PRIORS[config.prior.kind]
    return draw((num_codes, config.factors.num_units, config.factors.unit_dim), generator)


def draw_latent_dpm(run: Run, num_codes: int, generator: torch.Generator) -> Tensor:
    """Codes of the run's latent DPM.

    Raises:
        UserError: it has none.
    """
    weights = run.folder / "stages" / "latent_dpm" / WEIGHTS
    if not weights.exists():
        raise UserError(
            f"{run.folder} has no latent DPM; train it by the run's own command and latent_dpm.enabled=true"
        )
    latent_dpm = build_latent_dpm(run.config, run.model)
    load_weights(weights, latent_dpm)
    code = freeze(latent_dpm).sample(num_codes, CODE_STEPS, generator)
    return (code > 0.5).to(code) if run.config.factors.encoder.posterior == "bernoulli" else code


def find_unconditional(run: Run) -> EpsFunction:
    """The unconditional noise prediction in the run's latents: its frozen denoiser, or the shared stage
    `latent_diffusion` of the same configuration.

    Raises:
        UserError: that stage is not trained, or the system predicts no noise.
    """
    if isinstance(run.model, DisDiff):
        return run.model.denoiser
    if not isinstance(run.model, DiffusionModel):
        raise UserError(f"{run.config.system} predicts no noise; leave out the steps of the code")
    stage = list_stages(replace(run.config, system="latent_diffusion"), run.source, run.folder)[-1]
    if not stage.trained:
        raise UserError(
            f"there is no unconditional model of these latents ({stage.folder}); train it: "
            f"disdiff train --base configs/latent_diffusion/shapes3d.yaml preset={run.config.preset}"
        )
    denoiser = build_denoiser(run.config, run.model.latent_space)
    stage.load(denoiser)
    return freeze(denoiser).to(run.model.latent_space.mean.device)


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
