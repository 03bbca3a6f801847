"""Training on a machine that becomes busy, by a pretended clock."""

from types import SimpleNamespace

import pytest
import torch

from ldm.training import thread_watch
from ldm.training.thread_watch import ThreadWatch
from ldm.training.threads import use_threads

BUSY = {1: 1.0, 2: 10.0}
IDLE = {1: 1.0, 2: 0.5}


@pytest.fixture
def train(run, tiny_task, tmp_path, monkeypatch, caplog):
    """Return a function that trains 30 steps, two threads at first: the task, the threads of each step and
    those afterwards, and what was said.

    A step takes the seconds that `takes` gives for its number, by number of threads; layers take those of
    `screen`. A window is of two steps, a trial of two steps after the one to warm up.
    """
    monkeypatch.setattr(thread_watch, "WINDOW_STEPS", 2)
    monkeypatch.setattr(thread_watch, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(thread_watch, "TRIAL_STEPS", 2)

    def build(takes, usual=None, screen=None, counts=(1, 2), **options):
        clock, used = [0.0], []
        caplog.clear()
        caplog.set_level("INFO", "ldm")
        monkeypatch.setattr(thread_watch, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
        monkeypatch.setattr(
            thread_watch, "screen_counts", lambda counts: screen or dict.fromkeys(counts, 1.0)
        )
        task = tiny_task(**options)
        compute = task.compute_loss

        def compute_loss(batch, step, generator):
            used.append(torch.get_num_threads())
            clock[0] += takes(step)[used[-1]]
            return compute(batch, step, generator)

        task.compute_loss = compute_loss
        with use_threads(2):
            run(task, tmp_path / str(len(list(tmp_path.iterdir()))), watches=[
                ThreadWatch(counts, usual)
            ])  # fmt: skip
            used.append(torch.get_num_threads())
        return task, used, list(caplog.messages)

    return build


def test_an_idle_machine_is_left_alone(train):
    _, used, said = train(lambda step: IDLE)
    assert used == [2] * 31 and not said


def test_one_slow_step_is_no_reason(train):
    _, used, said = train(lambda step: {1: 1.0, 2: 1.4 if step == 11 else 0.5})
    assert used == [2] * 31 and not said


def test_a_machine_that_becomes_busy_is_noticed_and_the_change_is_said_once(train):
    _, used, said = train(lambda step: BUSY if step >= 10 else IDLE)
    assert used == [2] * 12 + [1] * 3 + [2] * 3 + [1] * 13  # a window, the trial, and the choice
    assert said == [
        "threads: 1 of 2 (2 threads are 0.1 times as fast; 1.3 is needed); until step 18 it was 2",
    ]


def test_threads_that_layers_show_to_be_hopeless_are_not_tried(train):
    _, used, said = train(lambda step: BUSY if step >= 10 else IDLE, screen={1: 0.1, 2: 5.0})
    assert used == [2] * 12 + [1] * 19
    assert said == [
        "threads: 1 of 2 (2 threads are 0.02 times as fast; 1.3 is needed); until step 15 it was 2",
    ]


def test_a_machine_that_is_busy_before_the_first_step_is_known_by_the_trial_before(train):
    _, used, said = train(lambda step: BUSY, usual=0.5)
    assert used[:3] == [2, 2, 1] and used[-1] == 1 and len(said) == 1
    _, used, said = train(lambda step: BUSY)  # nothing to compare with
    assert used == [2] * 31 and not said


def test_a_machine_that_is_slow_with_any_number_of_threads_says_nothing(train):
    _, used, said = train(lambda step: {1: 9.0, 2: 6.0} if step >= 10 else {1: 0.9, 2: 0.6})
    assert used == [2] * 12 + [1] * 3 + [2] * 16 and not said  # 1.5 times as fast still, and slow from now on


def test_fewer_threads_are_doubted_after_a_while(train, monkeypatch):
    monkeypatch.setattr(thread_watch, "RETRY_SECONDS", 3.0)
    _, used, said = train(lambda step: BUSY if 4 <= step < 14 else IDLE)
    assert used[0] == 2 and 1 in used and used[-1] == 2 and len(said) == 2
    assert said[1].startswith("threads: 2 of 2 (2 times as fast as 1; 1.3 is needed); until step ")


def test_but_for_the_threads_a_trial_changes_no_bit_of_any_weight(train, monkeypatch):
    wanted = []
    monkeypatch.setattr(torch, "set_num_threads", wanted.append)  # sums are taken in one order then
    plain, _, _ = train(lambda step: {1: 1.0, 2: 1.0})
    assert wanted == [2, 1, 1]  # by this test
    tried, _, _ = train(lambda step: dict.fromkeys((1, 2), 9.0 if step >= 10 else 1.0))
    assert wanted[4:10] == [1, 1, 1, 2, 2, 2]
    assert all(map(torch.equal, plain.state_dict().values(), tried.state_dict().values()))


@pytest.mark.parametrize("options", [{}, {"kill_at": 29}])
def test_a_trial_that_is_cut_short_chooses_nothing(train, options):
    takes = lambda step: BUSY if step >= 26 else IDLE  # noqa: E731
    if options:
        with use_threads(2), pytest.raises(SystemExit):
            train(takes, **options)
        return
    _, used, said = train(takes)
    assert used[:28] == [2] * 28 and used[28:30] == [1, 1] and used[30] == 2 and not said
