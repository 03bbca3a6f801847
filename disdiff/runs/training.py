"""Train the stages of a run, one function per stage."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from disdiff.build import build_autoencoder_task, build_latent_diffusion_task, build_latent_dpm_task
from disdiff.editing.units import in_batches
from disdiff.runs.context import Context
from disdiff.runs.encoding import (
    code_batches,
    encode_latents,
    encode_training_codes,
    initial_latents,
    latent_batches,
)
from disdiff.runs.stages import Stage
from ldm.autoencoder.latent_space import fit_standardisation, measure_latents
from ldm.autoencoder.losses import reconstruction_scores
from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader
from ldm.data.source import to_float
from ldm.files import remove_partial
from ldm.training.fit import fit
from ldm.training.log import format_duration, format_scores
from ldm.training.machine import on_device
from ldm.training.ranks import main_first, read_ranks
from ldm.training.stage_task import StageTask
from ldm.training.thread_watch import ThreadWatch
from ldm.training.weight_files import count_parameters

log = logging.getLogger(__name__)
FIRST_IMAGES = 2048  # to which the first stage is fitted before training
NUM_MEASURED = 256  # images of which the first stage is measured


def build_task(context: Context, name: str) -> StageTask:
    """The training task of a stage, on the context's networks."""
    config, device = context.system.show_declared(context.config, name), context.machine.device
    if name == "autoencoder":
        return build_autoencoder_task(config, context.latent_space, device)
    if name == "latent_diffusion":
        return build_latent_diffusion_task(config, context.latent_space, context.denoiser, device)
    if name == "latent_dpm":
        return build_latent_dpm_task(config, context.latent_dpm, device)
    return context.system.build_task(config, context.model, device)


def train_stage(context: Context, name: str) -> None:
    """Train a stage and save it.

    Raises:
        UserError: training diverged, or the folder cannot be written.
        Paused: `context.pause` stopped training; the same call continues it.
    """
    trainers = {
        "autoencoder": train_autoencoder,
        "latent_diffusion": train_latent_diffusion,
        "code": train_code,
        "latent_dpm": train_latent_dpm,
    }
    trainers[name](context, context.stages[name])


def train_first_stages(context: Context) -> None:
    """Load the stages before `code`, after training those that are missing."""
    for name, stage in context.stages.items():
        if name == "code":
            return
        if not stage.trained:
            train_stage(context, name)
        stage.load(context.modules[name])


def train_autoencoder(context: Context, stage: Stage) -> None:
    """Train stage 1, then fit the standardisation of its latents on the training images."""
    latent_space = context.latent_space
    if latent_space.autoencoder.starts_at_data:
        first = context.source.images(context.train_index[:FIRST_IMAGES])
        latent_space.autoencoder.fit_start(to_float(first))
    task = build_task(context, stage.name)
    batches = ImageBatches(context.source, context.train_index)
    seconds = fit_stage(context, stage, task, batches) if context.has_parameters(stage.name) else 0.0
    latent_space.autoencoder.load_state_dict(task.result.state_dict())
    cache = encode_latents(context)
    chunks = (torch.tensor(cache.latents[i : i + 4096]) for i in range(0, len(cache), 4096))
    moments = measure_latents(latent_space.autoencoder, chunks)
    per_channel = context.config.autoencoder.standardise == "channel"
    latent_space.set_standardisation(*fit_standardisation(moments, per_channel=per_channel))
    with main_first() as first, on_device(context.machine.device, latent_space):
        scores = measure_reconstruction(context) if first else {}
    scores["noisy_channels"] = len(moments.noisy_channels)
    save_stage(context, stage, latent_space, task, seconds, scores)
    if moments.noisy_channels and context.config.preset != "smoke":  # whose few steps say nothing yet
        log.info(moments.describe_noise())


def train_latent_diffusion(context: Context, stage: Stage) -> None:
    """Stage 2."""
    from disdiff.runs.frozen_model import measure_frozen  # here, as it imports figures

    task = build_task(context, stage.name)
    seconds = fit_stage(context, stage, task, latent_batches(context))
    with main_first() as first, on_device(context.machine.device, context.latent_space, task.result):
        scores = measure_frozen(context, task.result, stage.folder) if first else {}
    save_stage(context, stage, task.result, task, seconds, scores)


def train_code(context: Context, stage: Stage) -> None:
    """Train the stage `code`."""
    batches = code_batches(context)
    torch.set_rng_state(context.random_state)  # so that stages trained in the same run change nothing
    latents = initial_latents(context, batches) if "autoencoder" in context.stages else None
    if latents is not None:
        context.model.eval().fit_start(latents)
    task = build_task(context, stage.name)
    if latents is not None:
        task.fit_data(latents)
    seconds = fit_stage(context, stage, task, batches)
    save_stage(context, stage, task.result, task, seconds, {})


def train_latent_dpm(context: Context, stage: Stage) -> None:
    """Train the latent DPM on the codes of the training images."""
    codes = encode_training_codes(context)
    context.latent_dpm.fit_standardisation(codes)
    task = build_task(context, stage.name)
    seconds = fit_stage(context, stage, task, TensorBatches({"code": codes}))
    save_stage(context, stage, task.result, task, seconds, {})


def fit_stage(
    context: Context, stage: Stage, task: StageTask, batches: ImageBatches | TensorBatches
) -> float:
    """Train a task on batches, in the folder of the stage; returns the seconds it took."""

    def make_loader(first_step: int) -> DataLoader:
        """Loader of the batches from `first_step` on."""
        budget = task.budget
        sampler = StepSampler(len(batches), budget.batch_size, budget.num_steps, task.seed, first_step)
        workers = context.config.data.num_workers if isinstance(batches, ImageBatches) else 0
        return build_loader(batches, sampler, workers, pin_memory=context.machine.device == "cuda")

    budget = task.budget
    log.info(f"{stage.name}: {budget.num_steps} steps of {budget.batch_size} images, in {stage.folder}")
    with main_first() as first:
        if first:
            stage.folder.mkdir(parents=True, exist_ok=True)
            remove_partial(stage.folder)
    watches = []
    # compiled code keeps the number of threads it was compiled with
    if len(context.thread_counts) > 1 and context.machine.compile == "none":
        watches = [ThreadWatch(context.thread_counts, context.step_seconds.get(stage.name))]
    return fit(task, make_loader, stage.folder, stage.name, context.machine, watches, context.pause)


def save_stage(
    context: Context,
    stage: Stage,
    module: nn.Module,
    task: StageTask,
    seconds: float,
    scores: dict[str, float],
) -> None:
    """Save a trained stage and the record of its training."""
    steps = task.budget.num_steps if context.has_parameters(stage.name) else 0
    record: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "steps": steps,
        "images": steps * task.budget.batch_size,
        "image_size": context.source.image_size,
        "scores": scores,
    }
    if read_ranks().is_main:
        stage.save(module, record)
    speed = f", {record['images'] / seconds:.0f} images/s" if seconds and steps else ""
    size = f"{count_parameters(module) / 1e6:.2f} M trainable parameters"
    shown = {name: score for name, score in scores.items() if not name.startswith("z0_error")}  # one per t
    log.info(f"{stage.name}: trained in {format_duration(seconds)}{speed}, {size}{format_scores(shown)}")


@torch.no_grad()
def measure_reconstruction(context: Context) -> dict[str, float]:
    """MSE and PSNR of the autoencoder on evaluation images, and means of its statistics of batches."""
    autoencoder = context.latent_space.autoencoder.eval()
    image = to_float(context.source.images(context.eval_index[:NUM_MEASURED]))
    stats: list[dict[str, Tensor]] = []

    def reconstruct(part: Tensor) -> Tensor:
        """Reconstructions of one batch, whose statistics are kept."""
        reconstruction = autoencoder.reconstruct(part.to(context.machine.device))
        stats.append(reconstruction.stats)
        return reconstruction.image_hat.cpu()

    scores = reconstruction_scores(in_batches(reconstruct, image), image)
    means = {name: float(torch.stack([part[name] for part in stats]).mean()) for name in stats[0]}
    return {**scores, **means}
