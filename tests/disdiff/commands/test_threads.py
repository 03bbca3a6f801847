"""With how many threads a script computes on the run that it loads."""

from types import SimpleNamespace

import pytest
import torch

from disdiff.commands import common as cli
from ldm.training import threads
from ldm.training.threads import use_threads


@pytest.fixture
def open_with(monkeypatch):
    """Return a function that opens a run whose configuration has some `trainer.threads`: two threads are
    so many times as fast as one; gives the threads of the process.
    """

    def opened(fixed, ratio=1.0, device="cpu"):
        config = SimpleNamespace(trainer=SimpleNamespace(threads=fixed))
        monkeypatch.setattr(cli, "load_run", lambda path, device, guidance: SimpleNamespace(config=config))
        monkeypatch.setattr(cli, "resolve_device", lambda name: device)
        monkeypatch.setattr(threads, "ALL_THREADS", 2)
        monkeypatch.setattr(threads, "screen_counts", lambda counts: {1: 1.0, 2: 1 / ratio})
        cli.load_named_run(SimpleNamespace(run="run", device=device))
        return torch.get_num_threads()

    with use_threads(1):
        yield opened


def test_a_script_says_which_number_of_threads_it_has_chosen(open_with, caplog):
    caplog.set_level("INFO", "ldm")
    assert open_with(None, ratio=0.3) == 1
    assert caplog.messages == ["threads: 1 of 2 (2 threads are 0.3 times as fast; 1.3 is needed)"]
    assert open_with(None, ratio=1.8) == 2


@pytest.mark.parametrize("fixed", [1, 2, 3])
def test_a_script_takes_the_number_of_threads_that_the_run_fixes(open_with, capsys, fixed):
    assert open_with(fixed, ratio=0.3) == fixed
    assert capsys.readouterr() == ("", "")


def test_on_cuda_threads_are_not_tried(open_with, capsys):
    assert open_with(None, ratio=0.3, device="cuda") == 2
    assert capsys.readouterr() == ("", "")
