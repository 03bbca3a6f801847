"""The first lines of the main job: what is trained on what, how large it is, how long it will take here."""

import copy
import logging
import time

import torch
from torch import Tensor

from disdiff.config.schema import PRESETS, to_yaml
from disdiff.runs.context import Context
from disdiff.runs.encoding import example_batch
from disdiff.runs.training import build_task
from ldm.training.log import format_duration
from ldm.training.stage_task import StageTask
from ldm.training.weight_files import count_parameters

log = logging.getLogger(__name__)
TRIAL_STEPS = 2
TRIAL_BATCHES = (8, 64)  # of the first trial, and of the others if that one was quick
QUICK_SECONDS = 1.0


def log_overview(context: Context, full: bool) -> None:
    """Say what the run is; `full` adds the complete configuration."""
    config, source = context.config, context.source
    if full:
        log.info(to_yaml(config).rstrip())
    kind = "PROCEDURAL stand-in" if source.procedural else "file"
    log.info(
        f"system {config.system}, preset {config.preset} (others: preset={'|'.join(PRESETS)}), "
        f"seed {config.seed}"
    )
    log.info(
        f"data {source.name} ({kind}, {len(source)} images): "
        f"{len(context.train_index)} to train on, {len(context.eval_index)} to evaluate on"
    )
    log.info(
        f"device {context.machine.device}, {context.machine.precision}, {torch.get_num_threads()} CPU threads"
    )
    total = 0.0
    for name, stage in context.stages.items():
        size = f"{count_parameters(context.modules[name]) / 1e6:.2f} M parameters"
        if stage.trained:
            log.info(f"  {name}: {size}, trained ({stage.folder})")
            continue
        if not context.has_parameters(name):
            log.info(f"  {name}: {size}, nothing to train")
            continue
        device = context.machine.device
        task = build_task(context, name).to(device)
        example = example_batch(context, name, TRIAL_BATCHES[1])
        batch = {key: value.to(device) for key, value in example.items()}
        seconds = estimate_seconds(task, batch)
        task.to("cpu")
        total += seconds
        budget = task.budget
        log.info(
            f"  {name}: {size}, to train: {budget.num_steps} steps of {budget.batch_size}, "
            f"about {format_duration(seconds)} here"
        )
    if total:
        log.info(
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
