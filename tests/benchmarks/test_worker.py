"""A function in a child process ends in time, whatever it does."""

import operator
import os
import time

import pytest


@pytest.fixture
def worker(load_benchmark):
    with load_benchmark("worker").Worker() as worker:
        yield worker


def test_results_errors_and_ends(worker):
    assert worker.run(operator.add, 2, 3, seconds=60) == 5
    process = worker.run(os.getpid, seconds=60)
    with pytest.raises(ChildProcessError, match="ZeroDivisionError: "):
        worker.run(operator.truediv, 1, 0, seconds=60)
    assert worker.run(os.getpid, seconds=60) == process != os.getpid()
    with pytest.raises(TimeoutError, match="not finished in 0 s"):
        worker.run(time.sleep, 3600, seconds=0.1)
    with pytest.raises(ChildProcessError, match="died"):
        worker.run(os._exit, 1, seconds=60)
    assert worker.run(operator.add, 2, 3, seconds=60) == 5
    worker.end()
    assert worker.run(os.getpid, seconds=60) != process
