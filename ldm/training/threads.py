"""Set the number of CPU threads: a fixed number, or the one that a short measurement finds best.

PyTorch's threads busy-wait at every barrier. On a busy machine two threads can take several times as long as
one, and on an idle machine they are seldom twice as fast. So a few steps are timed with one thread, with half
of PyTorch's default number, and with the default number. More threads are used only if they are clearly
faster.

The number holds for the whole process: training, encoding, sampling and evaluation. A trial does not touch
the weights, optimiser or random state of its caller, so it changes the results of a seed only by the order of
floating-point sums.
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
GAIN = 1.3  # more threads are chosen if they are at least this many times as fast
SLOW_SECONDS, SLOW_RATIO = 0.1, 3.0  # a call slower than both (ratio to the fastest) is not repeated
SAMPLE_CALLS = 8  # timed calls of `sample_layers`, if there is no training step to time


def list_counts(fixed: int | None, device: str, num_processes: int = 1) -> list[int]:
    """The numbers of threads to choose from, ascending.

    It is a single number if `fixed` is given, on CUDA, and if there are several processes, to each of which
    `torchrun` already gives one thread or `OMP_NUM_THREADS`.
    """
    if fixed is not None:
        return [fixed]
    if device != "cpu" or num_processes > 1:
        return [ALL_THREADS]
    return sorted({1, max(1, ALL_THREADS // 2), ALL_THREADS})


def screen_counts(counts: Sequence[int]) -> dict[int, float]:
    """Seconds that `sample_layers` take with each number of threads.

    This trial is short even on a busy machine, where a training step with two threads may take a minute.
    """
    return time_counts(sample_layers(), dict.fromkeys(counts, 1.0), SAMPLE_CALLS)


def time_counts(work: Callable[[], object], screen: dict[int, float], calls: int) -> dict[int, float]:
    """Mean seconds per call of `work` with each number of threads, after one warm-up call.

    A number of threads that is much slower than fewer threads is timed with one call only.

    Args:
        work: the function to time.
        screen: seconds by number of threads, ascending, from `screen_counts`; a number of threads that is
            slower than the first there is not timed, and the same ratio is assumed for `work`.
        calls: number of timed calls per number of threads.
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
    """Context in which PyTorch uses `count` threads."""
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
    """The choice and why, such as `threads: 1 of 2 (2 threads are 1.2 times as fast; 1.3 is needed)`."""
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
    """Set the number of threads of this process to the best measured one, and log the choice."""
    torch.set_num_threads(choose_count(seconds))
    log.info(describe_choice(seconds))


def set_threads(counts: Sequence[int]) -> None:
    """Set the number of threads of this process if there is no training step to time.

    If `counts` has several numbers, the choice is made by timing `sample_layers`, in less than a second.
    """
    if len(counts) > 1:
        settle_threads(screen_counts(counts))
    else:
        torch.set_num_threads(*counts)


def sample_layers() -> Callable[[], Tensor]:
    """Return a forward pass through norms, activations and convolutions on 8 maps (64, 16, 16)."""
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
