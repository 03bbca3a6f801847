"""Progress bar, CSV log and throughput of a training stage; training stops if a loss is not finite."""

import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from ldm.errors import UserError
from ldm.training.log import read_log, save_log
from ldm.training.loggers import log_values


class Monitor(pl.Callback):
    """Progress bar and `log.csv` of one stage.

    The log has exponential averages over about as many steps as there are between two rows. They stay on the
    device, so that a step does not wait for it. The first step at which a statistic is not finite is also
    stored on the device and reported at the next row.
    """

    def __init__(
        self, path: Path, stage: str, num_steps: int, batch_size: int, first_step: int, every: int
    ) -> None:
        self.path, self.every, self.batch_size = path, every, batch_size
        self.step, self.first_step, self.num_steps = first_step, first_step, num_steps
        self.seconds = 0.0  # seconds of training, including those before a resume
        self._average: dict[str, Tensor] = {}
        # First bad step of each statistic, or -1, by set of names: some steps have only some statistics.
        self._trouble: dict[tuple[str, ...], Tensor] = {}
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            desc=stage,
            unit="step",
            dynamic_ncols=True,
            mininterval=1.0 if sys.stderr.isatty() else 20.0,
            file=sys.stderr,
        )
        rows = read_log(path) if first_step else []
        self._rows: list[dict[str, Any]] = [row for row in rows if int(row["step"]) <= first_step]

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Lightning's hook."""
        self._row_clock = time.monotonic()
        self._clock = self._row_clock - self.seconds
        self._row_step = self.step

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: object, step: int
    ) -> None:
        """Lightning's hook: count the step, check its statistics, write a row every `every` steps."""
        self.step += 1
        self._watch(task.stats)
        for name, value in task.stats.items():
            value = value.detach().float()
            average = self._average.get(name, value).to(value.device)
            self._average[name] = torch.lerp(average, value, 2 / (self.every + 1))
        self._bar.update()
        if self.step % self.every == 0 or self.step in (self.first_step + 10, self.num_steps):
            self._write_row(trainer, self._average)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: the state to save in a checkpoint."""
        average = {name: float(value) for name, value in self._average.items()}
        return {"seconds": time.monotonic() - self._clock, "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lightning's hook."""
        self.seconds = state["seconds"]
        self._average = {name: torch.tensor(value) for name, value in state["average"].items()}

    def check(self) -> None:
        """Raise UserError, naming the step and the statistic, if a statistic was not finite."""
        found = [
            (step, name)
            for names, steps in self._trouble.items()
            for name, step in zip(names, steps.tolist(), strict=True)
            if step >= 0
        ]
        if not found:
            return
        step = min(found)[0]
        terms = ", ".join(name for bad_step, name in found if bad_step == step)
        raise UserError(
            f"training diverged at step {int(step)}: {terms} is not finite; "
            "the last checkpoint is from before that. "
            "Lower train.learning_rate or set train.grad_clip"
        )

    def _watch(self, stats: dict[str, Tensor]) -> None:
        names, values = tuple(stats), torch.stack([value.detach().float() for value in stats.values()])
        trouble = self._trouble.get(names, torch.full_like(values, -1))
        bad = ~values.isfinite() & (trouble < 0)
        self._trouble[names] = torch.where(bad, float(self.step), trouble)

    def _write_row(self, trainer: pl.Trainer, stats: dict[str, Tensor]) -> None:
        self.check()
        now = time.monotonic()
        rate = (self.step - self._row_step) * self.batch_size / max(now - self._row_clock, 1e-9)
        self.seconds, self._row_clock, self._row_step = now - self._clock, now, self.step
        values = {name: float(value) for name, value in stats.items()}
        self._rows.append({"step": self.step, "images_per_second": round(rate, 1), **values})
        save_log(self.path, self._rows)
        shown = {name: f"{value:.3g}" for name, value in values.items()}
        self._bar.set_postfix({**shown, "img/s": f"{rate:.0f}"}, refresh=False)
        for logger in trainer.loggers:
            log_values(logger, values, self.step)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Lightning's hook."""
        self.seconds = time.monotonic() - self._clock
        self.check()
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook."""
        self._bar.close()
