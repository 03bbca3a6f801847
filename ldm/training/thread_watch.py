"""Choose the number of CPU threads again during training if steps have become slow."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from ldm.training.threads import choose_count, describe_choice, screen_counts

log = logging.getLogger(__name__)
WINDOW_STEPS, WINDOW_SECONDS = 5, 5.0  # the time of a step is averaged over at least both
SLOWER = 2.0  # a step this many times as long as usual is slow
OVERHEAD = 0.01  # seconds per step that the trial before training does not measure: hooks, optimiser
TRIAL_STEPS = 4  # timed steps per number of threads, after one warm-up step
RETRY_SECONDS = 600.0  # time until the next trial after fewer threads than at the start were chosen


class ThreadWatch(pl.Callback):
    """Tries the numbers of threads again when steps take more than twice as long as usual, and logs a change.

    A trial times the next training steps, a few with each promising number of threads. Every step is computed
    once, as without a trial, so weights, optimiser and random state are unaffected. When a trial happens
    depends on the clock, and losses then differ only by the order of floating-point sums.

    If a trial has chosen fewer threads than training started with, it is repeated every ten minutes.

    Args:
        counts: numbers of threads to choose from.
        usual: seconds per step measured before training; None to measure the first steps here.
    """

    def __init__(self, counts: Sequence[int], usual: float | None) -> None:
        self.counts, self.usual = counts, usual
        self._window: list[float] = []  # seconds of the latest steps
        self._plan: list[int] = []  # numbers of threads of the trial's remaining steps
        self._taken: dict[int, list[float]] = {}
        self._lowered: float | None = None  # when fewer threads than at the start were chosen

    def on_train_start(self, *hook: Any) -> None:
        """Lightning's hook."""
        self._first = self._chosen = torch.get_num_threads()

    def on_train_batch_start(self, *hook: Any) -> None:
        """Lightning's hook."""
        if self._plan:
            torch.set_num_threads(self._plan[0])
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: object, step: int
    ) -> None:
        """Lightning's hook."""
        now = time.perf_counter()
        if self._plan:
            self._taken.setdefault(self._plan.pop(0), []).append(now - self._start)
            if not self._plan:
                self._finish_trial(now, step + 1)
        else:
            self._window.append(now - self._start)
            if len(self._window) >= WINDOW_STEPS and sum(self._window) >= WINDOW_SECONDS:
                self._judge(now, sum(self._window) / len(self._window))

    def _judge(self, now: float, seconds: float) -> None:
        """Start a trial if a step of `seconds` is slow, or if a repeated trial is due."""
        self._window = []
        self.usual = seconds if self.usual is None else self.usual
        overdue = self._lowered is not None and now - self._lowered > RETRY_SECONDS
        if overdue or seconds > SLOWER * self.usual + OVERHEAD:
            self._screen, self._taken = screen_counts(self.counts), {}
            tried = [count for count in self.counts if self._screen[count] <= self._screen[self.counts[0]]]
            self._plan = [count for count in tried for _ in range(1 + TRIAL_STEPS)]
        else:
            self.usual = min(self.usual, seconds)

    def _finish_trial(self, now: float, step: int) -> None:
        """Set the best number of threads; the next steps define the usual time again."""
        seconds = {count: sum(taken[1:]) / TRIAL_STEPS for count, taken in self._taken.items()}
        scale = seconds[self.counts[0]] / self._screen[self.counts[0]]
        seconds = {count: seconds.get(count, scale * self._screen[count]) for count in self.counts}
        before, self._chosen, self.usual = self._chosen, choose_count(seconds), None
        torch.set_num_threads(self._chosen)
        self._lowered = now if self._chosen < self._first else None
        if self._chosen != before:
            with tqdm.external_write_mode():
                log.info(f"{describe_choice(seconds)}; until step {step} it was {before}")

    def on_train_end(self, *hook: Any) -> None:
        """Lightning's hook: restore the chosen number of threads if a trial was not finished."""
        torch.set_num_threads(self._chosen)

    def on_exception(self, *hook: Any) -> None:
        """Lightning's hook."""
        torch.set_num_threads(self._chosen)
