"""A new choice of the number of CPU threads during training, when the steps have become slow."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from ldm.training.threads import choose_count, describe_choice, screen_counts

log = logging.getLogger(__name__)
WINDOW_STEPS, WINDOW_SECONDS = 5, 5.0  # the least of both over which the time of a step is averaged
SLOWER = 2.0  # times as long as usual: slow
OVERHEAD = 0.01  # seconds of a step that a trial before training does not see: hooks, optimiser
TRIAL_STEPS = 4  # with each number of threads, after one to warm up
RETRY_SECONDS = 600.0  # after which fewer threads than at the start have to be the better choice anew


class ThreadWatch(pl.Callback):
    """Tries the numbers of threads again when steps take more than twice as long as usual, and logs a change.

    The trial takes the next steps of training, a few with each number of threads that is not hopeless. They
    are computed once, as all others are, so it changes no weights, no optimiser and no random state. When it
    happens depends on the clock: losses depend on that by the order of floating-point sums and nothing else.

    When the trial has chosen fewer threads than training began with, it is made again every ten minutes.

    Args:
        counts: numbers of threads to choose from.
        usual: seconds of a step by the trial before training; None for those of the first steps here.
    """

    def __init__(self, counts: Sequence[int], usual: float | None) -> None:
        self.counts, self.usual = counts, usual
        self._window: list[float] = []  # seconds of steps
        self._plan: list[int] = []  # threads of the trial's steps to come
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
        """Begin a trial if steps, of `seconds` each, are slow, or if the last one was long ago."""
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
        """Take the best number of threads; the steps that follow are the usual ones."""
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
        """Lightning's hook: a trial that training has cut short chooses nothing."""
        torch.set_num_threads(self._chosen)

    def on_exception(self, *hook: Any) -> None:
        """Lightning's hook."""
        torch.set_num_threads(self._chosen)
