"""Train one stage's task with Lightning's Trainer, with resuming, logs, checkpoints and preview images."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.utils import save_image

from ldm.files import atomic_path
from ldm.training.checkpoint import Pause, Paused, StageCheckpoint, count_steps, read_checkpoint
from ldm.training.loggers import log_picture, open_logger
from ldm.training.machine import GraphSteps, Machine, make_resident, prepare, release
from ldm.training.monitor import Monitor
from ldm.training.ranks import AverageStats, read_ranks, share_loader, wait_for_all
from ldm.training.stage_task import StageTask

LOG_EVERY = 50


class Preview(pl.Callback):
    """Writes `preview.png`, images that show the state of training, every `every` steps and at the end, and
    gives them to the logger.
    """

    def __init__(self, path: Path, every: int, num_steps: int) -> None:
        self.path, self.every, self.num_steps = path, every, num_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: StageTask, outputs: object, batch: dict[str, Tensor], step: int
    ) -> None:
        """Lightning's hook."""
        if (step + 1) % self.every and step + 1 != self.num_steps:
            return
        with torch.no_grad(), evaluating(task):
            rows = task.preview(batch, torch.Generator(task.device).manual_seed(0))
        if rows is None:
            return
        with atomic_path(self.path) as temporary:
            images = rows.flatten(0, 1).float().cpu()
            save_image((images + 1) / 2, temporary, nrow=rows.shape[1], normalize=False)
        for logger in trainer.loggers:
            log_picture(logger, self.path.stem, self.path, step + 1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Context in which `module` is in eval mode; afterwards each of its parts is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield module.eval()
    finally:
        for part, training in modes.items():
            part.training = training


def fit(
    task: StageTask,
    make_loader: Callable[[int], DataLoader],
    folder: Path,
    name: str,
    machine: Machine,
    watches: Sequence[pl.Callback] = (),
    pause: Pause | None = None,
) -> float:
    """Train `task` to the end of its budget, from its last checkpoint if there is one.

    Processes started by `torchrun` train together (`ldm.training.ranks`); only process 0 writes files.

    Args:
        task: the stage's task.
        make_loader: returns a loader that starts at a given step; its length is the total number of steps.
        folder: the stage's folder, for `resume.ckpt`, `log.csv` and `preview.png`.
        name: the stage's name, for the progress bar.
        machine: device, precision and other settings.
        watches: additional Lightning callbacks.
        pause: called with the number of steps done after each; if it returns true, training stops there with
            a checkpoint. For one process only.

    Returns:
        Seconds of training, including those before an interruption; 0 for processes other than 0.

    Raises:
        UserError: training diverged, the checkpoint is unreadable, or the folder cannot be written.
        Paused: `pause` stopped training.
    """
    checkpoint = folder / "resume.ckpt"
    first_step = count_steps(read_checkpoint(checkpoint)) if checkpoint.exists() else 0
    num_steps, task.num_parts = task.budget.num_steps, machine.accumulate
    ranks, monitor, saving = read_ranks(), None, None
    callbacks = [*watches, *([GraphSteps()] if machine.compile == "cuda_graphs" else [])]
    if ranks.size > 1:
        callbacks.append(AverageStats())
    if ranks.is_main:
        monitor = Monitor(folder / "log.csv", name, num_steps, task.budget.batch_size, first_step, LOG_EVERY)
        preview = Preview(folder / "preview.png", task.config.preview_steps, num_steps)
        saving = StageCheckpoint(checkpoint, task.config.checkpoint_seconds, pause)
        callbacks += [monitor, preview, saving]
    kind = machine.logger if ranks.is_main else "csv"
    with quiet_lightning(), open_logger(kind, folder) as logger:
        trainer = pl.Trainer(
            accelerator="gpu" if machine.device == "cuda" else machine.device,
            **ranks.trainer_options(machine.device),
            precision=machine.precision,
            max_epochs=1,
            callbacks=callbacks,
            logger=logger or False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        resume = str(checkpoint) if first_step else None
        prepare(task, machine)
        if first_step < num_steps:
            run_loop(
                trainer, task, share_loader(make_resident(make_loader(first_step), machine), ranks), resume
            )
        else:  # an earlier run was killed after its last step
            saved = read_checkpoint(checkpoint)
            task.on_load_checkpoint(saved)
            task.load_state_dict(saved["state_dict"])
            if monitor is not None:
                monitor.load_state_dict(saved["callbacks"][monitor.state_key])
    task.to("cpu")
    release(task)
    if saving is not None and saving.paused:
        raise Paused
    wait_for_all()  # a late process still reads the checkpoint, which is deleted once the stage is saved
    return 0.0 if monitor is None else monitor.seconds


def run_loop(trainer: pl.Trainer, task: StageTask, loader: DataLoader, checkpoint: str | None) -> None:
    """Run Lightning's loop; raise KeyboardInterrupt where Lightning turns an interrupt into an exit."""
    try:
        trainer.fit(task, loader, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's messages on loaders, hardware and tips; they do not apply here."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in ("pytorch_lightning", "lightning_fabric"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        logger.setLevel(level)
