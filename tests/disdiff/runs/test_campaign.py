"""A run in a process of its own: what comes back of its end, and how it is stopped."""

from types import SimpleNamespace

import pytest

from disdiff.runs import campaign
from disdiff.runs.campaign import Watch, run_job

NAPS = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped" * 100_000, flush=True)
    open(sys.argv[1], "a").write("saved.")
    sys.exit(130)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs a program in place of the main job."""

    def start(program, *arguments, tell=lambda line: None):
        entry = tmp_path / "entry.py"
        entry.write_text(program)
        monkeypatch.setattr(campaign, "MAIN_JOB", (str(entry),))
        return run_job(
            SimpleNamespace(arguments=list(map(str, arguments))), tmp_path / "logs" / "a.log", tell
        )

    return start


def test_success_has_no_reason_and_the_log_has_what_was_said_but_for_bars(run, tmp_path):
    told = []
    program = r"import sys; print('one'); sys.stderr.write(' 10%|#\r 20%|##\n'); print(sys.argv[1])"
    assert run(program, "two", tell=told.append) is None
    assert (tmp_path / "logs" / "a.log").read_text() == "one\ntwo\n"
    assert [line.strip() for line in told] == ["one", "10%|#", "20%|##", "two"]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import sys; sys.stderr.write('error: the disk is full\\n'); sys.exit(2)", "the disk is full (see "),
        ("raise MemoryError('no room')", "MemoryError: no room (see "),
        ("import sys; sys.exit(7)", "it ended with status 7 (see "),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?); see "),
    ],
)
def test_a_failure_is_told_in_a_sentence(run, program, says):
    assert run(program).startswith(says)


def test_an_interrupt_reaches_the_run_once_and_it_can_save(run, tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(NAPS, tmp_path / "state", tell=interrupt)
    assert (tmp_path / "state").read_text() == "saved."


def test_what_is_left_follows_from_finished_runs_of_the_same_configuration():
    def job(file, seconds=None):
        return SimpleNamespace(file=file, finished=seconds is not None, seconds=seconds)

    jobs = [job("slow", 600.0), job("fast", 60.0), job("slow"), job("fast"), job("new")]
    bar = SimpleNamespace(n=0, shown="", set_postfix_str=lambda text: setattr(bar, "shown", text))
    watch = Watch(bar, jobs, place=2)
    assert watch.seconds == [600.0, 60.0, 330.0]  # of the new one the mean of all
    watch.start -= 270
    watch("factors:  50%|##  | 5/10")
    assert bar.n == pytest.approx(2.45, abs=0.01)
    assert bar.shown.startswith("about 12 min left; factors: 50%")


def test_without_finished_runs_only_the_run_itself_speaks():
    bar = SimpleNamespace(n=0, shown="", set_postfix_str=lambda text: setattr(bar, "shown", text))
    Watch(bar, [SimpleNamespace(file="a", finished=False)], place=0)(" encode:  1%|")
    assert (bar.n, bar.shown) == (0, "encode: 1%|")
