import os
import pickle

import pytest
import torch

from ldm.errors import UserError
from ldm.training.checkpoint import Paused, count_steps, load_result, read_checkpoint


@pytest.fixture
def killed(tmp_path, run, tiny_task):
    """Folder of a stage killed at step 7."""
    with pytest.raises(SystemExit):
        run(tiny_task(kill_at=7), tmp_path)
    return tmp_path


def test_it_knows_the_steps_behind_it(killed):
    assert count_steps(read_checkpoint(killed / "resume.ckpt")) == 7


def test_no_temporary_file_stays(killed):
    assert not list(killed.glob(".*"))


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_it_gives_the_weights_that_the_stage_would_end_with(tmp_path, run, tiny_task, ema_decay):
    task, other = tiny_task(), tiny_task()
    if ema_decay is None:
        task.ema = None
    with pytest.raises(Paused):
        run(task, tmp_path, pause=lambda step: step == 7)
    steps, seconds = load_result(tmp_path / "resume.ckpt", other.trained)
    assert steps == 7 and 0 < seconds < 3600
    found, last = other.trained.state_dict(), task.trained.state_dict()
    assert all(torch.equal(found[name], value) for name, value in task.result.state_dict().items())
    same_as_last = all(torch.equal(found[name], value) for name, value in last.items())
    assert same_as_last == (ema_decay is None)


def test_weights_of_another_module_are_refused(killed):
    with pytest.raises(UserError, match="resume.ckpt is from another configuration"):
        load_result(killed / "resume.ckpt", torch.nn.Linear(2, 2))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_reading_never_runs_code(tmp_path, run, tiny_task):
    trace = tmp_path / "executed"
    torch.save({"state_dict": Malicious(trace)}, tmp_path / "resume.ckpt")
    with pytest.raises(UserError, match="cannot read the checkpoint .*resume.ckpt"):
        run(tiny_task(), tmp_path)
    (tmp_path / "resume.ckpt").write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    with pytest.raises(UserError, match="delete it to restart this stage"):
        run(tiny_task(), tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_an_unreadable_checkpoint_is_named(killed, run, tiny_task, damage):
    path = killed / "resume.ckpt"
    content = {"truncated": path.read_bytes()[:-500], "empty": b"", "text": b"not a checkpoint"}
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes(content[damage])
    with pytest.raises(UserError, match="cannot read the checkpoint .*resume.ckpt"):
        run(tiny_task(), killed)


@pytest.mark.parametrize("change", ["shape", "missing", "added"])
def test_a_checkpoint_of_another_configuration_is_refused(killed, run, tiny_task, change):
    checkpoint = torch.load(killed / "resume.ckpt", weights_only=True)
    weights = checkpoint["state_dict"]
    if change == "shape":
        weights["trained.0.weight"] = torch.zeros(7, 5)
    elif change == "missing":
        del weights["trained.0.weight"]
    else:
        weights["trained.9.weight"] = torch.zeros(7, 5)
    torch.save(checkpoint, killed / "resume.ckpt")
    with pytest.raises(UserError, match=r"another configuration .*trained\.[09]\.weight"):
        run(tiny_task(), killed)


def test_a_full_disk_stops_with_one_sentence_and_the_old_checkpoint(killed, run, tiny_task, monkeypatch):
    good = (killed / "resume.ckpt").read_bytes()

    def fill(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fill)
    with pytest.raises(UserError, match="resume.ckpt: No space left on device"):
        run(tiny_task(), killed)
    assert (killed / "resume.ckpt").read_bytes() == good
    assert not list(killed.glob(".*"))
