"""How many threads compute. Seconds are those of a pretended clock: the machine has no say in it."""

from types import SimpleNamespace

import pytest
import torch

from ldm.training import threads
from ldm.training.threads import (
    choose_count,
    describe_choice,
    list_counts,
    sample_layers,
    screen_counts,
    set_threads,
    time_counts,
    use_threads,
)


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    with use_threads(torch.get_num_threads()):
        yield


@pytest.fixture
def pretend(monkeypatch):
    """Return a function that gives work which takes some seconds by number of threads, and the list of the
    numbers that it was done with.
    """

    def build(seconds):
        clock, done = [0.0], []
        monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

        def work():
            done.append(torch.get_num_threads())
            clock[0] += seconds[done[-1]]

        return work, done

    return build


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (8, [1, 4, 8])])
def test_one_thread_half_and_all_are_compared(monkeypatch, cores, counts):
    monkeypatch.setattr(threads, "ALL_THREADS", cores)
    assert list_counts(None, "cpu") == counts
    assert list_counts(5, "cpu") == [5] and list_counts(5, "cuda", 2) == [5]
    assert list_counts(None, "cuda") == [cores] and list_counts(None, "cpu", 2) == [cores]


@pytest.mark.parametrize(
    ("seconds", "count", "line"),
    [
        ({1: 132, 2: 105}, 1, "threads: 1 of 2 (2 threads are 1.2 times as fast; 1.3 is needed)"),
        ({1: 120, 2: 100}, 1, "threads: 1 of 2 (2 threads are 1.2 times as fast; 1.3 is needed)"),
        ({1: 119, 2: 1821}, 1, "threads: 1 of 2 (2 threads are 0.065 times as fast; 1.3 is needed)"),
        ({1: 1.3, 2: 1}, 2, "threads: 2 of 2 (1.3 times as fast as 1; 1.3 is needed)"),
        (
            {1: 8, 4: 2, 8: 1.8},
            4,
            "threads: 4 of 8 (4 times as fast as 1, 8 threads are 1.1 times as fast; 1.3 is needed)",
        ),
        (
            {1: 1.2, 4: 1, 8: 0.8},
            8,
            "threads: 8 of 8 (1.5 times as fast as 1, 4 threads are 0.8 times as fast; 1.3 is needed)",
        ),
        (
            {1: 1, 4: 0.9, 8: 2},
            1,
            "threads: 1 of 8 (4 threads are 1.1 times as fast, 8 threads are 0.5 times as fast; "
            "1.3 is needed)",
        ),
    ],
)
def test_more_threads_have_to_be_clearly_faster(seconds, count, line):
    assert choose_count(seconds) == count and describe_choice(seconds) == line


def test_a_number_of_threads_is_timed_after_a_warm_up_and_the_process_keeps_its_own(pretend):
    before = torch.get_num_threads()
    work, done = pretend({1: 0.5, 2: 0.25, 4: 0.125})
    assert time_counts(work, {1: 1.0, 2: 1.0, 4: 1.0}, 3) == {1: 0.5, 2: 0.25, 4: 0.125}
    assert done == [1] * 4 + [2] * 4 + [4] * 4 and torch.get_num_threads() == before


def test_hopeless_numbers_of_threads_cost_one_call_or_none(pretend):
    work, done = pretend({1: 0.5, 2: 8.0})
    assert time_counts(work, {1: 1.0, 2: 1.0}, 3) == {1: 0.5, 2: 8.0}
    assert done == [1] * 4 + [2]
    work, done = pretend({1: 0.5})
    assert time_counts(work, {1: 0.01, 2: 0.04}, 3) == {1: 0.5, 2: 2.0}
    assert done == [1] * 4
    work, done = pretend({1: 0.01, 2: 0.09})  # too quick to be hopeless: it may be warming up
    assert time_counts(work, {1: 1.0, 2: 1.0}, 3)[2] == pytest.approx(0.09)
    assert done == [1] * 4 + [2] * 4


@pytest.mark.parametrize(("seconds", "count"), [({1: 1.0, 2: 0.9}, 1), ({1: 1.0, 2: 0.5}, 2)])
def test_where_nothing_is_trained_the_layers_of_a_model_are_timed(
    monkeypatch, caplog, pretend, seconds, count
):
    work, _ = pretend(seconds)
    monkeypatch.setattr(threads, "sample_layers", lambda: work)
    caplog.set_level("INFO", "ldm")
    set_threads([1, 2])
    assert torch.get_num_threads() == count
    (line,) = caplog.messages
    assert line.startswith(f"threads: {count} of 2 (")


def test_a_fixed_number_of_threads_is_set_without_a_trial(monkeypatch, caplog):
    monkeypatch.setattr(threads, "screen_counts", lambda counts: pytest.fail("tried"))
    caplog.set_level("INFO", "ldm")
    set_threads([3])
    assert torch.get_num_threads() == 3 and not caplog.messages


def test_a_trial_leaves_the_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert set(screen_counts([1, 2])) == {1, 2}
    assert torch.equal(torch.get_rng_state(), before)
    out = sample_layers()()
    assert out.shape == (8, 64, 16, 16) and out.isfinite().all() and not out.requires_grad
