"""The first lines of the main job: what is trained on what, how large it is, how long it will take here."""

import copy
import time

import torch
from torch import Tensor

from disdiff.config import PRESETS, to_yaml
from disdiff.pipeline import Pipeline
from disdiff.stages import count_parameters
from ldm.training.log import format_duration
from ldm.training.stage_task import StageTask

TRIAL_STEPS = 2
TRIAL_BATCHES = (8, 64)  # of the first trial, and of the others if that one was quick
QUICK_SECONDS = 1.0


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def print_overview(pipeline: Pipeline, full: bool) -> None:
    """Say what the run is; `full` adds the complete configuration.

    Raises:
        UserError: there are too few images for it.
    """
    config, source = pipeline.config, pipeline.source
    pipeline.check_images()
    if full:
        say(to_yaml(config).rstrip())
    kind = "PROCEDURAL stand-in" if source.procedural else "file"
    say(
        f"system {config.system}, preset {config.preset} (others: preset={'|'.join(PRESETS)}), "
        f"seed {config.seed}"
    )
    say(
        f"data {source.name} ({kind}, {len(source)} images): "
        f"{len(pipeline.train_index)} to train on, {len(pipeline.eval_index)} to evaluate on"
    )
    say(
        f"device {pipeline.machine.device}, {pipeline.machine.precision}, "
        f"{torch.get_num_threads()} CPU threads"
    )
    total = 0.0
    for name, stage in pipeline.stages.items():
        size = f"{count_parameters(pipeline.modules[name]) / 1e6:.2f} M parameters"
        if stage.trained:
            say(f"  {name}: {size}, trained ({stage.folder})")
            continue
        if not pipeline.learns(name):
            say(f"  {name}: {size}, nothing to train")
            continue
        device = pipeline.machine.device
        task = pipeline.build_task(name).to(device)
        example = pipeline.example_batch(name, TRIAL_BATCHES[1])
        batch = {key: value.to(device) for key, value in example.items()}
        seconds = estimate_seconds(task, batch)
        task.to("cpu")
        total += seconds
        budget = task.budget
        say(
            f"  {name}: {size}, to train: {budget.num_steps} steps of {budget.batch_size}, "
            f"about {format_duration(seconds)} here"
        )
    if total:
        say(
            f"training will take about {format_duration(total)} on this machine "
            f"(measured on {TRIAL_STEPS} trial steps)"
        )


def estimate_seconds(task: StageTask, batch: dict[str, Tensor]) -> float:
    """Seconds that a stage's training will take here: a few steps on a small batch, scaled to the budget.

    The trial runs on a copy of the task and of the caller's random state, so that training is none the wiser.
    """
    trial = copy.deepcopy(task).train()

    def time_step(size: int) -> float:
        """Seconds of one forward and backward pass on `size` images."""
        small = {key: value[:size] for key, value in batch.items()}
        start = time.perf_counter()
        trial.compute_loss(small, 0, trial.step_generator(0)).backward()
        if trial.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    few, many = (min(size, task.budget.batch_size) for size in TRIAL_BATCHES)
    with torch.random.fork_rng():
        size = many if time_step(few) < QUICK_SECONDS else few
        seconds = min(time_step(size) for _ in range(TRIAL_STEPS))
    return seconds * task.budget.num_steps * task.budget.batch_size / size
