import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ldm.errors import UserError
from ldm.training import ranks
from ldm.training.checkpoint import Paused, count_steps, read_checkpoint
from ldm.training.ema import EMA
from ldm.training.fit import Preview, evaluating
from ldm.training.log import read_log
from ldm.training.machine import resolve_machine


def state(task):
    """Weights, averages and running statistics of a task."""
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def log_rows(folder):
    """Log rows by step, without what depends on the clock."""
    rows = {int(row["step"]): row for row in read_log(folder / "log.csv")}
    return {step: {k: v for k, v in row.items() if k != "images_per_second"} for step, row in rows.items()}


@pytest.fixture
def every_step_logged(monkeypatch):
    monkeypatch.setattr("ldm.training.fit.LOG_EVERY", 1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_resumes_to_the_very_bits_of_an_uninterrupted_one(
    tmp_path, run, tiny_task, every_step_logged, monkeypatch, optimizer
):
    monkeypatch.setattr("ldm.training.muon.LEAST_CHANNELS", 5)
    whole = tiny_task(optimizer=optimizer)
    run(whole, tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tiny_task(optimizer=optimizer, kill_at=13), tmp_path / "killed")
    with pytest.raises(SystemExit):
        run(tiny_task(optimizer=optimizer, kill_at=21), tmp_path / "killed")
    resumed = tiny_task(optimizer=optimizer)
    run(resumed, tmp_path / "killed")
    assert_same(state(whole), state(resumed))
    assert log_rows(tmp_path / "whole") == log_rows(tmp_path / "killed")
    assert list(log_rows(tmp_path / "killed")) == list(range(1, 31))


def test_a_paused_run_goes_on_to_the_very_bits_of_an_uninterrupted_one(
    tmp_path, run, tiny_task, every_step_logged
):
    whole, asked = tiny_task(), []
    run(whole, tmp_path / "whole")
    for stop in (13, 21):
        with pytest.raises(Paused):
            run(
                tiny_task(),
                tmp_path / "paused",
                pause=lambda step, stop=stop: asked.append(step) or step == stop,
            )
        assert asked[-1] == stop == count_steps(read_checkpoint(tmp_path / "paused" / "resume.ckpt"))
    assert asked == list(range(1, 22))
    resumed = tiny_task()
    run(resumed, tmp_path / "paused", pause=lambda step: False)
    assert_same(state(whole), state(resumed))
    assert log_rows(tmp_path / "whole") == log_rows(tmp_path / "paused")


def test_what_the_log_averages_survives_a_resume(tmp_path, run, tiny_task, monkeypatch):
    monkeypatch.setattr("ldm.training.fit.LOG_EVERY", 4)
    run(tiny_task(), tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tiny_task(kill_at=14), tmp_path / "killed")
    run(tiny_task(), tmp_path / "killed")
    whole, killed = log_rows(tmp_path / "whole"), log_rows(tmp_path / "killed")
    assert {4, 8, 12, 16, 20, 24, 28, 30} <= whole.keys() & killed.keys()
    assert all(whole[step] == killed[step] for step in whole.keys() & killed.keys())


def test_the_average_counts_its_updates_through_a_resume(tmp_path, run, tiny_task, monkeypatch):
    counts, update = [], EMA.update
    monkeypatch.setattr(EMA, "update", lambda ema, module, n: counts.append(n) or update(ema, module, n))
    with pytest.raises(SystemExit):
        run(tiny_task(kill_at=13), tmp_path)
    run(tiny_task(), tmp_path)
    assert counts == list(range(30))


def test_steps_after_the_last_checkpoint_are_done_again(tmp_path, run, tiny_task, every_step_logged):
    whole = tiny_task()
    run(whole, tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tiny_task(kill_at=9), tmp_path / "killed")
    old = tmp_path / "old.ckpt"
    shutil.copy(tmp_path / "killed" / "resume.ckpt", old)
    with pytest.raises(SystemExit):
        run(tiny_task(kill_at=20), tmp_path / "killed")
    shutil.copy(old, tmp_path / "killed" / "resume.ckpt")  # as if none had been written since
    resumed = tiny_task()
    run(resumed, tmp_path / "killed")
    assert_same(state(whole), state(resumed))
    assert log_rows(tmp_path / "whole") == log_rows(tmp_path / "killed")


def test_an_adversarial_stage_resumes_exactly_too(tmp_path, run, adversarial_task, every_step_logged):
    whole = adversarial_task()
    run(whole, tmp_path / "whole", images=True)
    with pytest.raises(SystemExit):
        run(adversarial_task(kill_at=13), tmp_path / "killed", images=True)
    resumed = adversarial_task()
    run(resumed, tmp_path / "killed", images=True)
    assert_same(state(whole), state(resumed))
    rows = log_rows(tmp_path / "killed")
    assert rows == log_rows(tmp_path / "whole")
    assert not rows[5]["generator"] and rows[6]["generator"]  # the sixth step is step 5


def test_killed_after_its_last_step_a_stage_keeps_what_it_learned(tmp_path, run, tiny_task):
    whole = tiny_task()
    assert run(whole, tmp_path / "run") > 0
    resumed = tiny_task()  # the checkpoint of the last step lies there, the weights were not saved yet
    assert run(resumed, tmp_path / "run") > 0
    assert_same(state(whole), state(resumed))


def test_seconds_add_up_over_a_resume(tmp_path, run, tiny_task):
    with pytest.raises(SystemExit):
        run(tiny_task(kill_at=20), tmp_path)
    checkpoint = torch.load(tmp_path / "resume.ckpt", weights_only=True)
    before = checkpoint["callbacks"]["Monitor"]["seconds"]
    assert run(tiny_task(), tmp_path) > before > 0


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoint_before(tmp_path, run, tiny_task):
    with pytest.raises(SystemExit):
        run(tiny_task(kill_at=9), tmp_path)
    good = (tmp_path / "resume.ckpt").read_bytes()
    with pytest.raises(UserError, match="step 10: noise is not finite"):
        run(tiny_task(nan_at=9), tmp_path)
    assert (tmp_path / "resume.ckpt").read_bytes() == good
    run(tiny_task(), tmp_path)  # and it goes on from there


def test_weights_that_are_not_finite_do_not_replace_the_last_good_checkpoint(tmp_path, run, tiny_task):
    with pytest.raises(UserError, match="step 13: loss"):
        run(
            tiny_task(bad_gradient_at=11), tmp_path
        )  # the loss of step 11 is still good, that of the next is not
    run(tiny_task(), tmp_path)


def test_trouble_between_checkpoints_is_found_at_the_end_at_the_latest(
    tmp_path, run, train_config, tiny_task
):
    task = tiny_task(nan_at=28)
    task.config.checkpoint_seconds = 1e9
    with pytest.raises(UserError, match="step 29: noise is not finite"):
        run(task, tmp_path)


def test_a_run_keeps_no_frozen_weights(tmp_path, run, tiny_task):
    task = tiny_task()
    run(task, tmp_path)
    saved = torch.load(tmp_path / "resume.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("frozen") for name in saved)
    assert {name.split(".")[0] for name in saved} == {"trained", "ema"}


def test_training_needs_no_random_state_from_outside(tmp_path, run, tiny_task):
    tasks = [tiny_task(), tiny_task(), tiny_task(seed=1)]
    for number, task in enumerate(tasks):
        torch.manual_seed(number)
        run(task, tmp_path / str(number))
    assert_same(state(tasks[0]), state(tasks[1]))
    assert not torch.equal(state(tasks[0])["trained.0.weight"], state(tasks[2])["trained.0.weight"])


def test_a_machine_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine = resolve_machine("auto", "auto")
    assert (machine.device, machine.precision) == ("cpu", "32-true")
    with pytest.raises(UserError, match="trainer.device=cpu"):
        resolve_machine("cuda", "auto")
    with pytest.raises(UserError, match="gpu"):
        resolve_machine("gpu", "auto")
    with pytest.raises(UserError, match="fp16"):
        resolve_machine("cpu", "fp16")


def test_cuda_is_taken_with_bf16_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    machine = resolve_machine("auto", "auto")
    assert (machine.device, machine.precision) == ("cuda", "bf16-mixed")
    assert resolve_machine("auto", "float32").precision == "32-true"


def test_each_process_has_a_gpu_of_its_own_from_the_start(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    resolve_machine("cuda", "auto")
    monkeypatch.setattr(ranks, "read_ranks", lambda: ranks.Ranks(5, 8, 4))
    monkeypatch.setenv("LOCAL_RANK", "1")
    resolve_machine("cuda", "auto")
    assert taken == [1]


def test_an_interrupt_reaches_the_caller(tmp_path, run, tiny_task, monkeypatch):
    task = tiny_task()
    compute = task.compute_loss

    def interrupted(batch, step, generator):
        if step == 4:
            raise KeyboardInterrupt
        return compute(batch, step, generator)

    monkeypatch.setattr(task, "compute_loss", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning switches the interrupt off for good
    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path)


def test_a_preview_leaves_what_is_trained_as_it_is(tmp_path):
    """BatchNorm counts no batch of a preview, though weights are not averaged."""
    task = nn.Module()
    task.norm, task.frozen, task.device = nn.BatchNorm1d(3), nn.Dropout().eval(), torch.device("cpu")
    task.preview = lambda batch, generator: task.norm(batch["x"])[None, :, :, None, None].clamp(-1, 1)
    with pytest.raises(RuntimeError), evaluating(task):
        assert not task.norm.training
        raise RuntimeError("a preview failed")
    Preview(tmp_path / "preview.png", 1, 9).on_train_batch_end(
        SimpleNamespace(loggers=[]), task, None, {"x": torch.randn(4, 3) + 5}, 0
    )
    assert task.norm.num_batches_tracked == 0 and task.norm.training and not task.frozen.training
    assert (tmp_path / "preview.png").exists()
