"""Checkpoints of a stage in training, saved to one file at intervals of time, atomically.

Deviation: Lightning's ModelCheckpoint names files by epoch or optimiser step; a stage with a discriminator
makes two optimiser steps per training step.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.training.monitor import Monitor

LAST, AVERAGE = "trained.", "ema.average."  # prefixes of the last and the averaged weights in a checkpoint
Pause = Callable[[int], bool]  # called with the number of steps done after each: whether to stop here for now


class Paused(Exception):
    """Training stopped because its `Pause` asked for it; the same call goes on from the checkpoint."""


class StageCheckpoint(pl.Callback):
    """Saves a checkpoint to `path` every `seconds`, and one where `pause` ends training.

    Attributes:
        paused: whether `pause` has ended training.
    """

    def __init__(self, path: Path, seconds: float, pause: Pause | None = None) -> None:
        self.path, self.seconds, self.pause = path, seconds, pause
        self.paused = False
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: object, step: int
    ) -> None:
        """Lightning's hook: save if it is time and the losses and weights are finite."""
        pausing = self.pause is not None and self.pause(step + 1)
        if pausing or time.monotonic() - self._last >= self.seconds:
            next(callback for callback in trainer.callbacks if isinstance(callback, Monitor)).check()
            if not all(parameter.isfinite().all() for parameter in task.parameters()):
                return  # the next loss is then not finite, and `Monitor` reports it
            with atomic_path(self.path) as temporary:
                trainer.save_checkpoint(temporary, weights_only=False)  # includes the optimiser's state
            self._last = time.monotonic()
            self.paused = trainer.should_stop = pausing


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing code that it may contain; UserError if the file is unreadable."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        count_steps(checkpoint)
        return checkpoint
    except Exception as error:  # torch raises a dozen exception types for damaged files
        message = (
            f"cannot read the checkpoint {path} ({type(error).__name__}); delete it to restart this stage"
        )
        raise UserError(message) from error


def count_steps(checkpoint: dict[str, Any]) -> int:
    """Number of training steps before the checkpoint."""
    return checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]


def load_result(path: Path, module: nn.Module) -> tuple[int, float]:
    """Load into `module` the weights that its stage would end with if it ended at a checkpoint.

    These are the averaged weights if the stage averages them; see `StageTask.result`.

    Returns:
        The number of training steps before the checkpoint, and the seconds that they took.

    Raises:
        UserError: the file is unreadable, or from another configuration.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint["state_dict"]
    averaged = {
        name.removeprefix(AVERAGE): value for name, value in state.items() if name.startswith(AVERAGE)
    }
    last = {name.removeprefix(LAST): value for name, value in state.items() if name.startswith(LAST)}
    try:
        module.load_state_dict(averaged or last)
    except RuntimeError as error:
        raise UserError(f"{path} is from another configuration; choose another folder") from error
    return count_steps(checkpoint), checkpoint["callbacks"][Monitor.__qualname__]["seconds"]
