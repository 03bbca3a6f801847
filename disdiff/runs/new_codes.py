"""Draw codes for sampling, and find the unconditional model of the same latents.

data         codes of the run's evaluation images
prior        the prior that regularised the code in training (InfoDiffusion, beta-VAE, InfoVAE)
latent_dpm   a diffusion model of codes (PDAE, Diff-AE, InfoDiffusion; any system trained with one)
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from disdiff.baselines.prior import PRIORS, sample_bits, term_weights
from disdiff.build import build_denoiser, build_latent_dpm, get_system
from disdiff.editing.unconditional import draw_windowed
from disdiff.editing.units import decode_code, in_batches, sample_start
from disdiff.evaluation.codes_file import stack_codes
from disdiff.method.model import DiffusionModel, DisDiff
from disdiff.runs.run_folder import Run
from disdiff.runs.stages import Stage, list_stages
from ldm.data.arrays import silent
from ldm.diffusion.sampler import EpsFunction
from ldm.errors import UserError, look_up
from ldm.nn.layers import freeze
from ldm.training.weight_files import WEIGHTS, load_weights

CODE_STEPS = 100  # DDIM steps for codes of a latent DPM
ORIGINS = {
    "data": "codes of the data set",
    "prior": "codes of the prior",
    "latent_dpm": "codes of the latent DPM",
}


def draw_codes(run: Run, origin: str, num_codes: int, generator: torch.Generator) -> Tensor:
    """New codes for a run from one of `ORIGINS`, shape (num_codes, N, D), on its model's device.

    Raises:
        UserError: the run has no such codes.
    """
    draw = look_up("--codes", origin, {"data": draw_data, "prior": draw_prior, "latent_dpm": draw_latent_dpm})
    return draw(run, num_codes, generator).to(run.model.device)


def draw_data(run: Run, num_codes: int, generator: torch.Generator) -> Tensor:
    """Draw codes of random evaluation images."""
    codes = stack_codes(run.require_codes())
    return codes[torch.randint(len(codes), (num_codes,), generator=generator)]


def draw_prior(run: Run, num_codes: int, generator: torch.Generator) -> Tensor:
    """Draw codes from the prior; UserError if the run was trained without a prior."""
    config = run.config
    if not get_system(config).depends_on("prior") or not any(term_weights(config.prior)):
        raise UserError(f"this run of {config.system} was trained without a prior; use another --codes")
    bits = config.code.encoder.posterior == "bernoulli"
    draw = sample_bits if bits else PRIORS[config.prior.kind]
    return draw((num_codes, config.code.num_units, config.code.unit_dim), generator)


def draw_latent_dpm(run: Run, num_codes: int, generator: torch.Generator) -> Tensor:
    """Draw codes from the run's latent DPM; UserError if the run has no latent DPM."""
    weights = run.folder / "stages" / "latent_dpm" / WEIGHTS
    if not weights.exists():
        raise UserError(
            f"{run.folder} has no latent DPM; repeat the run's command with latent_dpm.enabled=true"
        )
    latent_dpm = build_latent_dpm(run.config, run.model)
    load_weights(weights, latent_dpm)
    code = freeze(latent_dpm).sample(num_codes, CODE_STEPS, generator)
    return (code > 0.5).to(code) if run.config.code.encoder.posterior == "bernoulli" else code


def find_unconditional(run: Run) -> EpsFunction:
    """The unconditional noise prediction for the run's latents.

    It is the frozen denoiser of the run, or the shared stage `latent_diffusion` of the same configuration.

    Raises:
        UserError: that stage is not trained, or the system does not predict noise.
    """
    if isinstance(run.model, DisDiff):
        return run.model.denoiser
    if not isinstance(run.model, DiffusionModel):
        raise UserError(f"{run.config.system} does not predict noise; leave out --during")
    stage = find_shared_diffusion(run)
    if not stage.trained:
        raise UserError(
            f"there is no unconditional model of these latents ({stage.folder}); train it: "
            f"disdiff train --base {run.folder / 'config.yaml'} system=latent_diffusion "
            "run.name=unconditional"
        )
    denoiser = build_denoiser(run.config, run.model.latent_space)
    stage.load(denoiser)
    return freeze(denoiser).to(run.model.device)


def find_shared_diffusion(run: Run) -> Stage:
    """The stage `latent_diffusion` on the run's first stage, which may not be trained."""
    return list_stages(replace(run.config, system="latent_diffusion"), run.source, run.folder)[-1]


def list_sources(run: Run) -> list[str]:
    """The ways of `draw_new` to sample a run's model, of those that it has the stages for."""
    has_dpm = (run.folder / "stages" / "latent_dpm" / WEIGHTS).exists()
    denoises = isinstance(run.model, DiffusionModel)
    has_other = isinstance(run.model, DisDiff) or (denoises and find_shared_diffusion(run).trained)
    return ["data", "normal", *["latent_dpm"] * has_dpm, *["two_phase"] * has_other]


def draw_new(
    run: Run, way: str, num_images: int, seed: int, progress: Callable[[float], None] = silent
) -> Tensor:
    """Images sampled from random noise and codes, shape (num_images, 3, H, W) in [-1, 1].

    Args:
        run: the run.
        way: source of the codes. `data`: codes of evaluation images; `normal`: standard normal codes, the
            prior of InfoDiffusion and of the VAEs and a control for systems without a prior; `latent_dpm`;
            `two_phase`: normal codes, used in the lower half of the steps only, and the unconditional model
            above (InfoDiffusion).
        num_images: number of images.
        seed: seed of codes and noise; the noise is the same for every way.
        progress: called with the completed fraction, from 0 to 1.

    Raises:
        UserError: the run lacks what the way needs.
    """
    generator, model, sampler = torch.Generator().manual_seed(seed), run.model, run.config.sampler
    z_T = sample_start(model, num_images, run.source.image_size, generator)
    if way in ("data", "latent_dpm"):
        code = draw_codes(run, way, num_images, generator)
    else:
        shape = (num_images, *stack_codes(run.require_codes()).shape[1:])
        code = torch.randn(shape, generator=generator).to(model.device)
    if way == "two_phase":
        window = (0, model.schedule.num_steps // 2)
        elsewhere = find_unconditional(run)
        return draw_windowed(model, elsewhere, code, z_T, window, sampler, generator, progress)
    decode = partial(decode_code, model, sampler=sampler, generator=generator)
    return in_batches(decode, code, z_T, progress=progress)
