"""Checkpoints of a stage in training, saved to one file at intervals of time, atomically.

Deviation: Lightning's ModelCheckpoint names files by epoch or optimiser step; a stage with a discriminator
makes two optimiser steps per training step.
"""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.training.monitor import Monitor


class StageCheckpoint(pl.Callback):
    """Saves a checkpoint to `path` every `seconds`."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: object, step: int
    ) -> None:
        """Lightning's hook: save if `seconds` have passed and the losses and weights are finite."""
        if time.monotonic() - self._last >= self.seconds:
            next(callback for callback in trainer.callbacks if isinstance(callback, Monitor)).check()
            if not all(parameter.isfinite().all() for parameter in task.parameters()):
                return  # the next loss is then not finite, and `Monitor` reports it
            with atomic_path(self.path) as temporary:
                trainer.save_checkpoint(temporary, weights_only=False)  # includes the optimiser's state
            self._last = time.monotonic()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing code that it may contain.

    Raises:
        UserError: the file is unreadable.
    """
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
