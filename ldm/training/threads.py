"""How many CPU threads compute: a fixed number, or one chosen by measurement.

PyTorch's threads spin at every barrier. On a busy machine two threads can take several times as long as one,
and on an idle machine they are seldom twice as fast. So a few steps are timed with one thread, with half of
the threads that PyTorch would take, and with all of them. More threads are taken where they clearly pay.

The number holds for the whole process: training, encoding, sampling and evaluation. It is the only thing here
that depends on the clock. A trial touches no weights, no optimiser and no random state of its caller, so the
results of a seed do not depend on it beyond the order in which floating-point sums are taken.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)
ALL_THREADS = torch.get_num_threads()  # PyTorch's own choice, before anyone changes it
GAIN = 1.3  # times as fast as fewer threads that more threads have to be
SLOW_SECONDS, SLOW_RATIO = 0.1, 3.0  # of a call; a number of threads that is slower is not timed again
SAMPLE_CALLS = 8  # of the layers that are timed where there is no step of training


def list_counts(fixed: int | None, device: str, num_processes: int = 1) -> list[int]:
    """The numbers of threads to choose from, ascending; a single one where there is nothing to choose.

    That is so for a `fixed` number, on CUDA, and for one of several processes, each of which has its share of
    the cores already (`torchrun` gives it one thread, or `OMP_NUM_THREADS`).
    """
    if fixed is not None:
        return [fixed]
    if device != "cpu" or num_processes > 1:
        return [ALL_THREADS]
    return sorted({1, max(1, ALL_THREADS // 2), ALL_THREADS})


def screen_counts(counts: Sequence[int]) -> dict[int, float]:
    """Seconds that layers such as the models' take with each number of threads. The trial is short, also on
    a busy machine, where two threads may need a minute for a step of training.
    """
    return time_counts(sample_layers(), dict.fromkeys(counts, 1.0), SAMPLE_CALLS)


def time_counts(work: Callable[[], object], screen: dict[int, float], calls: int) -> dict[int, float]:
    """Mean seconds of a call of `work` with each number of threads, after one call to warm up.

    A number of threads that takes much longer than fewer do is timed by one call.

    Args:
        work: what is timed.
        screen: seconds by number of threads, ascending, as of `screen_counts`; a number of threads that is
            slower there than the first one is taken to be as much slower here.
        calls: with each number of threads.
    """
    seconds: dict[int, float] = {}
    fewest = min(screen)
    for count in screen:
        if screen[count] > screen[fewest]:
            seconds[count] = seconds[fewest] * screen[count] / screen[fewest]
            continue
        with use_threads(count):
            first = _time(work)
            hopeless = seconds and first > max(SLOW_SECONDS, SLOW_RATIO * min(seconds.values()))
            seconds[count] = first if hopeless else sum(_time(work) for _ in range(calls)) / calls
    return seconds


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Compute with some number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_count(seconds: dict[int, float]) -> int:
    """The fewest threads, unless more are at least `GAIN` times as fast as those chosen before them."""
    chosen = min(seconds)
    for count in sorted(seconds):
        if _speed(seconds, count, chosen) >= GAIN:
            chosen = count
    return chosen


def describe_choice(seconds: dict[int, float]) -> str:
    """What was chosen and why, such as `threads: 1 of 2 (2 threads are 1.2 times as fast; 1.3 is needed)`."""
    chosen = choose_count(seconds)
    reasons = []
    if chosen > 1:
        reasons.append(f"{_speed(seconds, chosen, min(seconds)):g} times as fast as {min(seconds)}")
    for count in sorted(seconds):
        if count not in (chosen, min(seconds)):
            reasons.append(f"{count} threads are {_speed(seconds, count, chosen):g} times as fast")
    return f"threads: {chosen} of {max(seconds)} ({', '.join(reasons)}; {GAIN:g} is needed)"


def _speed(seconds: dict[int, float], count: int, other: int) -> float:
    """How many times as fast `count` threads are as `other`, rounded down to the two digits shown."""
    ratio = seconds[other] / seconds[count]
    unit = 10.0 ** (math.floor(math.log10(ratio)) - 1)
    return math.floor(ratio / unit + 1e-9) * unit


def settle_threads(seconds: dict[int, float]) -> None:
    """Take what was measured as the best number of threads for this process, and log which and why."""
    torch.set_num_threads(choose_count(seconds))
    log.info(describe_choice(seconds))


def set_threads(counts: Sequence[int]) -> None:
    """Set the number of threads of this process where there is no step of training to time: the only one of
    `counts`, else the one that suits layers such as the models' (a trial of less than a second).
    """
    if len(counts) > 1:
        settle_threads(screen_counts(counts))
    else:
        torch.set_num_threads(*counts)


def sample_layers() -> Callable[[], Tensor]:
    """A forward pass through norms, activations and convolutions on 8 maps (64, 16, 16)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, 16, 16, generator=generator)
    weight = torch.randn(64, 64, 3, 3, generator=generator) / 24

    def work() -> Tensor:
        """The last map, shape (8, 64, 16, 16)."""
        with torch.inference_mode():
            y = x
            for _ in range(4):
                y = F.conv2d(F.silu(F.group_norm(y, 8)), weight, padding=1)
        return y

    return work
