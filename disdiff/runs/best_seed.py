"""Choose among seeds without labels: begin to pre-train the code with each, go on with the lowest loss.

Codes of other seeds may share a unit between factors, and then their loss is higher, already after a third
of pre-training. This was seen where losses differ, on procedural Shapes3D (benchmarks/RECIPE.md); equal
losses say nothing.
"""

import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from disdiff.config.schema import Config
from disdiff.method.code_task import CodeTask
from disdiff.runs.context import Context, open_context
from disdiff.runs.pipeline import check_batches, check_images, open_run_folder
from disdiff.runs.training import build_task, train_first_stages, train_stage
from ldm.errors import UserError
from ldm.training.checkpoint import Paused, count_steps, read_checkpoint
from ldm.training.fit import LOG_EVERY
from ldm.training.log import read_log
from ldm.training.ranks import read_ranks

log = logging.getLogger(__name__)
SHARE = 3  # seeds are compared after one part in so many of pre-training
LAST_STEPS = 500  # before that, whose losses are averaged


def choose_seed(configs: Iterable[Config]) -> Context:
    """The run of the lowest loss after a third of pre-training, of configurations that differ in their seeds.

    Each has a run folder of its own, and what is there already is not trained again.

    Raises:
        UserError: there is no pre-training or more than one process, or as in `run_pipeline`.
    """
    if read_ranks().size > 1:
        raise UserError("--best-of is for one process; choose a seed with it first, then train with seed=N")
    found: list[tuple[float, Context]] = []
    for config in configs:
        context = open_context(config)
        loss, steps = begin(context)
        found.append((loss, context))
        log.info(f"seed {config.seed}: loss {loss:.4f} after {steps} steps")
    loss, best = min(found, key=lambda pair: pair[0])
    others = [str(context.folder) for _, context in found if context is not best]
    rest = f"; not needed any more: {', '.join(others)}" if others else ""
    log.info(f"seed {best.config.seed} has the lowest loss{rest}")
    return open_context(best.config)  # as if it were the only one


def begin(context: Context) -> tuple[float, int]:
    """Train a run for a third of its code's pre-training, unless it is there.

    Returns:
        The mean loss at the end of these steps, and their number.

    Raises:
        UserError: there is no pre-training, or the run folder belongs to another configuration.
    """
    task = build_task(context, "code") if "code" in context.stages else None
    whole = task.pretrain_steps if isinstance(task, CodeTask) else 0
    if not whole:
        raise UserError(
            "--best-of compares losses of pre-training, and this run has none; give one seed as seed=N, or "
            "set code.loss.auxiliary.weight and code.loss.auxiliary.pretrain_steps"
        )
    steps = min(whole, math.ceil(whole / SHARE / LOG_EVERY) * LOG_EVERY)  # a step of which the log has a row
    check_images(context)
    check_batches(context)
    open_run_folder(context)
    stage = context.stages["code"]
    checkpoint = stage.folder / "resume.ckpt"
    done = count_steps(read_checkpoint(checkpoint)) if checkpoint.exists() else 0
    if not stage.trained and done < steps:
        train_first_stages(context)
        with suppress(Paused):
            train_stage(replace(context, pause=lambda count: count == steps), "code")
    return read_loss(stage.folder / "log.csv", steps), steps


def read_loss(path: Path, steps: int) -> float:
    """Mean of the losses that a log has of the last `LAST_STEPS` before step `steps`.

    Raises:
        UserError: the log has none of them.
    """
    rows = ((int(row["step"]), row["loss"]) for row in read_log(path))
    losses = [float(loss) for step, loss in rows if steps - LAST_STEPS < step <= steps]
    if not losses:
        raise UserError(f"{path} has no loss of steps {steps - LAST_STEPS} to {steps}; delete its folder")
    return sum(losses) / len(losses)
