"""The first lines of the main job: what is trained on what, how large it is, how long it will take here, and
with how many CPU threads.
"""

import copy
import time

import torch

from disdiff.config import PRESETS, to_yaml
from disdiff.pipeline import Pipeline
from disdiff.stages import count_parameters
from ldm.training.log import format_duration
from ldm.training.optimizer import Budget
from ldm.training.stage_task import StageTask
from ldm.training.threads import choose_count, screen_counts, settle_threads, time_counts

TRIAL_STEPS = 2
TRIAL_BATCHES = (8, 64)  # of the first trial, and of the others if that one was quick
QUICK_SECONDS = 1.0


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def print_overview(pipeline: Pipeline, full: bool) -> None:
    """Say what the run is, choose the number of CPU threads; `full` adds the complete configuration."""
    config, source = pipeline.config, pipeline.source
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
    budgets = try_stages(pipeline)
    threads = torch.get_num_threads()
    say(
        f"device {pipeline.machine.device}, {pipeline.machine.precision}, "
        f"{threads} CPU thread{'s' * (threads > 1)}"
    )
    total = 0.0
    for name, stage in pipeline.stages.items():
        size = f"{count_parameters(pipeline.modules[name]) / 1e6:.2f} M parameters"
        if stage.trained:
            say(f"  {name}: {size}, trained ({stage.folder})")
            continue
        if name not in budgets:
            say(f"  {name}: {size}, nothing to train")
            continue
        budget = budgets[name]
        seconds = pipeline.step_seconds[name] * budget.num_steps
        total += seconds
        say(
            f"  {name}: {size}, to train: {budget.num_steps} steps of {budget.batch_size}, "
            f"about {format_duration(seconds)} here"
        )
    if total:
        say(
            f"training will take about {format_duration(total)} on this machine "
            f"(measured on {TRIAL_STEPS} trial steps)"
        )


def try_stages(pipeline: Pipeline) -> dict[str, Budget]:
    """The budgets of the stages that are to be trained, by name, after some trial steps of each.

    The process then has the number of threads that is best for all their steps together, and
    `pipeline.step_seconds` says how long a step takes with it.

    Raises:
        UserError: a batch cannot be shared (see `Pipeline.check_batches`).
    """
    pipeline.check_batches()
    todo = [name for name, stage in pipeline.stages.items() if not stage.trained and pipeline.learns(name)]
    budgets, trials, choose = {}, {}, len(pipeline.thread_counts) > 1
    if not todo:
        return budgets
    screen = screen_counts(pipeline.thread_counts) if choose else {torch.get_num_threads(): 1.0}
    torch.set_num_threads(choose_count(screen))
    for name in todo:
        task = pipeline.build_task(name)
        budgets[name], trials[name] = task.budget, try_steps(pipeline, name, task, screen)
    seconds = {
        count: sum(trial[count] * budgets[name].num_steps for name, trial in trials.items())
        for count in screen
    }
    if choose:
        settle_threads(seconds, say)
    pipeline.step_seconds = {name: trial[choose_count(seconds)] for name, trial in trials.items()}
    return budgets


def try_steps(pipeline: Pipeline, name: str, task: StageTask, screen: dict[int, float]) -> dict[int, float]:
    """Seconds of a training step of a stage with each number of threads, by a few steps on a small batch.

    The trial runs on a copy of the task and of the caller's random state, so that training is none the wiser.
    """
    device = pipeline.machine.device
    example = pipeline.example_batch(name, TRIAL_BATCHES[1])
    batch = {key: value.to(device) for key, value in example.items()}
    trial = copy.deepcopy(task).to(device).train()

    def step(size: int) -> None:
        """One forward and backward pass on `size` images."""
        small = {key: value[:size] for key, value in batch.items()}
        trial.compute_loss(small, 0, trial.step_generator(0)).backward()
        if trial.device.type == "cuda":
            torch.cuda.synchronize()

    few, many = (min(size, task.budget.batch_size) for size in TRIAL_BATCHES)
    with torch.random.fork_rng():
        start = time.perf_counter()
        step(few)
        size = many if time.perf_counter() - start < QUICK_SECONDS else few
        seconds = time_counts(lambda: step(size), screen, TRIAL_STEPS)
    return {count: taken * task.budget.batch_size / size for count, taken in seconds.items()}
