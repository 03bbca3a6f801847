"""The overview that `disdiff train` prints first: data, stages, sizes, expected times, CPU threads."""

import copy
import logging
import time

import torch

from disdiff.config.schema import PRESETS, to_yaml
from disdiff.runs.context import Context
from disdiff.runs.encoding import example_batch
from disdiff.runs.pipeline import check_batches, check_images
from disdiff.runs.training import build_task
from ldm.tasks import sample_latents
from ldm.training.log import format_duration
from ldm.training.optimizer import Budget
from ldm.training.stage_task import StageTask
from ldm.training.threads import choose_count, screen_counts, settle_threads, time_counts
from ldm.training.weight_files import count_parameters

log = logging.getLogger(__name__)
TRIAL_STEPS = 2
TRIAL_BATCHES = (8, 64)  # batch size of the first trial, and of later trials if the first was fast
QUICK_SECONDS = 1.0


def log_overview(context: Context, full: bool) -> None:
    """Log an overview of the run and choose the number of CPU threads.

    Args:
        context: context of the run.
        full: whether to log the complete configuration, too.

    Raises:
        UserError: there are too few images.
    """
    config, source = context.config, context.source
    check_images(context)
    if full:
        log.info(to_yaml(config).rstrip())
    kind = "PROCEDURAL stand-in" if source.procedural else "file"
    log.info(
        f"system {config.system}, preset {config.preset} (others: preset={'|'.join(PRESETS)}), "
        f"seed {config.seed}"
    )
    log.info(
        f"data {source.name} ({kind}, {len(source)} images): "
        f"{len(context.train_index)} for training, {len(context.eval_index)} for evaluation"
    )
    budgets = try_stages(context)
    threads = torch.get_num_threads()
    log.info(
        f"device {context.machine.device}, {context.machine.precision}, "
        f"{threads} CPU thread{'s' * (threads > 1)}"
    )
    total = 0.0
    for name, stage in context.stages.items():
        size = f"{count_parameters(context.modules[name]) / 1e6:.2f} M parameters"
        if stage.trained and stage.record["hash"] != stage.hash:
            log.info(f"  {name}: {size}; {stage.folder} is of another configuration, choose another run.name")
            continue
        if stage.trained:
            images = stage.record["images"]  # 0 for imported weights, and for a stage without parameters
            log.info(f"  {name}: {size}, trained{f' on {images:,} images' * bool(images)} ({stage.folder})")
            continue
        if name not in budgets:
            log.info(f"  {name}: {size}, nothing to train")
            continue
        budget, seconds = budgets[name]
        total += seconds
        log.info(
            f"  {name}: {size}, to train: {budget.num_steps} steps of {budget.batch_size}, "
            f"about {format_duration(seconds)} here"
        )
    if total:
        log.info(
            f"training will take about {format_duration(total)} on this machine "
            f"(measured on {TRIAL_STEPS} trial steps)"
        )


def try_stages(context: Context) -> dict[str, tuple[Budget, float]]:
    """Time some trial steps of every stage to be trained; returns their budgets and seconds by name.

    Afterwards the process uses the number of threads that minimises the total training time, and
    `context.step_seconds` holds the seconds per step with that number.

    Raises:
        UserError: a batch cannot be split (see `check_batches`).
    """
    check_batches(context)
    todo = [n for n, stage in context.stages.items() if not stage.trained and context.has_parameters(n)]
    budgets: dict[str, Budget] = {}
    step_seconds, stage_seconds, choose = {}, {}, len(context.thread_counts) > 1
    if not todo:
        return {}
    screen = screen_counts(context.thread_counts) if choose else {torch.get_num_threads(): 1.0}
    torch.set_num_threads(choose_count(screen))
    for name in todo:
        task = build_task(context, name)
        fit_example(context, name, task)
        budgets[name], first = task.budget, task.trial_step
        trial = try_steps(context, name, task, screen, first)
        cheap = try_steps(context, name, task, screen, 0) if first else trial
        step_seconds[name] = trial
        stage_seconds[name] = {
            count: cheap[count] * first + trial[count] * (task.budget.num_steps - first) for count in screen
        }
    total = {count: sum(each[count] for each in stage_seconds.values()) for count in screen}
    if choose:
        settle_threads(total)
    chosen = choose_count(total)
    context.step_seconds.update({name: trial[chosen] for name, trial in step_seconds.items()})
    return {name: (budget, stage_seconds[name][chosen]) for name, budget in budgets.items()}


def fit_example(context: Context, name: str, task: StageTask) -> None:
    """Fit what the loss of stage `code` needs to example latents, so that a trial step does all its work."""
    if name == "code" and "autoencoder" in context.stages:
        statistics = example_batch(context, name, TRIAL_BATCHES[1])["statistics"]
        with torch.random.fork_rng(), torch.no_grad():
            task.fit_data(sample_latents(context.latent_space, statistics, None))


def try_steps(
    context: Context, name: str, task: StageTask, screen: dict[int, float], number: int
) -> dict[int, float]:
    """Seconds of the training step `number` of a stage for each number of threads, on a small batch.

    The trial uses a copy of the task and restores the random state, so that it does not affect training.
    """
    device = context.machine.device
    example = example_batch(context, name, TRIAL_BATCHES[1])
    batch = {key: value.to(device) for key, value in example.items()}
    trial = copy.deepcopy(task).to(device).train()

    def step(size: int) -> None:
        """One forward and backward pass on `size` images."""
        small = {key: value[:size] for key, value in batch.items()}
        trial.compute_loss(small, number, trial.step_generator(0)).backward()
        if trial.device.type != "cpu":
            torch.accelerator.synchronize()

    few, many = (min(size, task.budget.batch_size) for size in TRIAL_BATCHES)
    with torch.random.fork_rng():
        start = time.perf_counter()
        step(few)
        size = many if time.perf_counter() - start < QUICK_SECONDS else few
        seconds = time_counts(lambda: step(size), screen, TRIAL_STEPS)
    return {count: taken * task.budget.batch_size / size for count, taken in seconds.items()}
