"""The first lines of the main job: what will be trained on what, how large it is, how long it will take here."""

import time

import torch
from torch import nn

from disdiff.build import build_autoencoder_task, build_factors_task, build_latent_diffusion_task
from disdiff.config import PRESETS, to_yaml
from disdiff.pipeline import Pipeline
from ldm.training.monitor import format_duration
from ldm.training.stage_task import StageTask

TRIAL_BATCH = 8
TRIAL_STEPS = 2


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def print_overview(pipeline: Pipeline, full: bool) -> None:
    """Say what the run is; `full` adds the complete configuration."""
    config, source = pipeline.config, pipeline.source
    if full:
        say(to_yaml(config).rstrip())
    kind = "PROCEDURAL stand-in" if source.procedural else "file"
    say(f"system {config.system}, preset {config.preset} (others: preset={'|'.join(PRESETS)}), seed {config.seed}")
    say(
        f"data {source.name} ({kind}, {len(source)} images): "
        f"{len(pipeline.train_index)} to train on, {len(pipeline.eval_index)} to evaluate on"
    )
    say(f"device {pipeline.machine.device}, {pipeline.machine.precision}, {torch.get_num_threads()} CPU threads")
    modules = {
        "autoencoder": pipeline.latent_space,
        "latent_diffusion": pipeline.denoiser,
        "factors": pipeline.model.factors,
    }
    total = 0.0
    for name, stage in pipeline.stages.items():
        size = f"{count_parameters(modules[name]) / 1e6:.2f} M parameters"
        if stage.trained:
            say(f"  {name}: {size}, trained ({stage.folder})")
            continue
        task = build_trial(pipeline, name)
        seconds = estimate_seconds(task, pipeline)
        total += seconds
        budget = task.budget
        say(
            f"  {name}: {size}, to train: {budget.num_steps} steps of {budget.batch_size}, "
            f"about {format_duration(seconds)} here"
        )
    if total:
        say(f"training will take about {format_duration(total)} on this machine (measured on {TRIAL_STEPS} small steps)")


def count_parameters(module: nn.Module) -> int:
    """Numbers in the parameters of `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def build_trial(pipeline: Pipeline, name: str) -> StageTask:
    """The task of a stage, on copies that a trial may spoil."""
    config, device = pipeline.config, pipeline.machine.device
    trial = Pipeline(config, say)
    builders = {
        "autoencoder": lambda: build_autoencoder_task(config, trial.latent_space, device),
        "latent_diffusion": lambda: build_latent_diffusion_task(config, trial.latent_space, trial.denoiser, device),
        "factors": lambda: build_factors_task(config, trial.model, device),
    }
    return builders[name]()


def estimate_seconds(task: StageTask, pipeline: Pipeline) -> float:
    """Seconds that a stage's training will take here: a few small steps, scaled to the budget."""
    batch_size = min(TRIAL_BATCH, task.budget.batch_size)
    device = pipeline.machine.device
    images = pipeline.source.images(pipeline.train_index[:batch_size]).to(device)
    task.to(device).train()
    with torch.no_grad():
        autoencoder = pipeline.latent_space.to(device).autoencoder
        statistics = autoencoder.encode_statistics(images.float() / 127.5 - 1)
    batch = {"image": images, "statistics": statistics}
    if pipeline.model.reads == "z" and not hasattr(task, "perceptual"):
        del batch["image"]
    seconds = 0.0
    for step in range(TRIAL_STEPS + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        task.compute_loss(batch, 0, task.step_generator(step)).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds += (time.perf_counter() - start) * (step > 0)
    pipeline.latent_space.to("cpu")
    return seconds / TRIAL_STEPS * task.budget.num_steps * task.budget.batch_size / batch_size
