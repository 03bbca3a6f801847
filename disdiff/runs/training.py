"""How each stage of a run is trained, one function per stage."""

import logging
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from disdiff.build import (
    build_autoencoder_task,
    build_latent_diffusion_task,
    build_latent_dpm_task,
)
from disdiff.runs.context import Context
from disdiff.runs.encoding import (
    BATCH,
    code_batches,
    encode_latents,
    encode_training_codes,
    initial_latents,
    latent_batches,
)
from disdiff.runs.stages import Stage
from ldm.autoencoder.latent_space import fit_standardisation
from ldm.autoencoder.losses import reconstruction_scores
from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader
from ldm.data.source import to_float
from ldm.files import remove_partial
from ldm.training.fit import fit
from ldm.training.log import format_duration
from ldm.training.ranks import main_first, read_ranks
from ldm.training.stage_task import StageTask
from ldm.training.thread_watch import ThreadWatch
from ldm.training.weight_files import count_parameters

log = logging.getLogger(__name__)


def build_task(context: Context, name: str) -> StageTask:
    """The training task of a stage, on the context's networks."""
    config, device = context.config, context.machine.device
    if name == "autoencoder":
        return build_autoencoder_task(config, context.latent_space, device)
    if name == "latent_diffusion":
        return build_latent_diffusion_task(config, context.latent_space, context.denoiser, device)
    if name == "latent_dpm":
        return build_latent_dpm_task(config, context.latent_dpm, device)
    return context.system.build_task(config, context.model, device)


def train_stage(context: Context, name: str) -> None:
    """Train a stage and keep it.

    Raises:
        UserError: training diverged, or the folder cannot be written.
    """
    trainers = {
        "autoencoder": train_autoencoder,
        "latent_diffusion": train_latent_diffusion,
        "code": train_code,
        "latent_dpm": train_latent_dpm,
    }
    trainers[name](context, context.stages[name])


def train_autoencoder(context: Context, stage: Stage) -> None:
    """Stage 1, then the standardisation of its latents over the training images."""
    task, latent_space = build_task(context, stage.name), context.latent_space
    batches = ImageBatches(context.source, context.train_index)
    seconds = fit_stage(context, stage, task, batches) if context.has_parameters(stage.name) else 0.0
    latent_space.autoencoder.load_state_dict(task.result.state_dict())
    cache = encode_latents(context)
    chunks = (torch.tensor(cache.latents[i : i + 4096]) for i in range(0, len(cache), 4096))
    raw = (latent_space.autoencoder.sample_raw(chunk) for chunk in chunks)
    per_channel = context.config.autoencoder.standardise == "channel"
    latent_space.set_standardisation(*fit_standardisation(raw, per_channel=per_channel))
    save_stage(context, stage, latent_space, task, seconds, measure_reconstruction(context))


def train_latent_diffusion(context: Context, stage: Stage) -> None:
    """Stage 2."""
    task = build_task(context, stage.name)
    seconds = fit_stage(context, stage, task, latent_batches(context))
    save_stage(context, stage, task.result, task, seconds, {})


def train_code(context: Context, stage: Stage) -> None:
    """The stage that finds the code."""
    batches = code_batches(context)
    latents = initial_latents(context, batches) if "autoencoder" in context.stages else None
    if latents is not None:
        context.model.eval().fit_start(latents)
    task = build_task(context, stage.name)
    if latents is not None:
        task.fit_data(latents)
    seconds = fit_stage(context, stage, task, batches)
    save_stage(context, stage, task.result, task, seconds, {})


def train_latent_dpm(context: Context, stage: Stage) -> None:
    """A diffusion model of the training images' codes."""
    codes = encode_training_codes(context)
    context.latent_dpm.fit_standardisation(codes)
    task = build_task(context, stage.name)
    seconds = fit_stage(context, stage, task, TensorBatches({"code": codes}))
    save_stage(context, stage, task.result, task, seconds, {})


def fit_stage(
    context: Context, stage: Stage, task: StageTask, batches: ImageBatches | TensorBatches
) -> float:
    """Train a task on batches, in the stage's folder; returns the seconds it took."""

    def make_loader(first_step: int) -> DataLoader:
        """Batches from `first_step` on."""
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
    # compiled code keeps its threads
    if len(context.thread_counts) > 1 and context.machine.compile == "none":
        watches = [ThreadWatch(context.thread_counts, context.step_seconds.get(stage.name))]
    return fit(task, make_loader, stage.folder, stage.name, context.machine, watches)


def save_stage(
    context: Context,
    stage: Stage,
    module: nn.Module,
    task: StageTask,
    seconds: float,
    scores: dict[str, float],
) -> None:
    """Keep a trained stage and the record of its training."""
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
    log.info(f"{stage.name}: trained in {format_duration(seconds)}{speed}, {size} {format_scores(scores)}")


@torch.no_grad()
def measure_reconstruction(context: Context) -> dict[str, float]:
    """MSE and PSNR of the first stage on evaluation images, and statistics of its bottleneck."""
    autoencoder = context.latent_space.autoencoder.eval()
    image = to_float(context.source.images(context.eval_index[:BATCH]))
    reconstruction = autoencoder.reconstruct(image)
    scores = reconstruction_scores(autoencoder.decode(autoencoder.encode(image)), image)
    return {**scores, **{name: float(value) for name, value in reconstruction.stats.items()}}


def format_scores(scores: dict[str, float]) -> str:
    """Scores on one line, in parentheses; nothing for none."""
    return f"({', '.join(f'{name} {value:.4g}' for name, value in scores.items())})" if scores else ""
