import importlib.util

import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger

from ldm.errors import UserError
from ldm.training import loggers
from ldm.training.log import read_log
from ldm.training.loggers import check_logger, list_numbers, log_picture, log_results, open_logger


class Told(Logger):
    """A logger, and what it was told. It is its own experiment, as of TensorBoard."""

    name, version, breaks_at = "told", 0, None

    def __init__(self):
        self.values, self.pictures, self.ends = {}, [], []

    @property
    def experiment(self):
        return self

    def log_metrics(self, metrics, step=None):
        if step == self.breaks_at:
            raise ConnectionError("the server is away\nand more")
        self.values[step] = dict(metrics)

    def log_hyperparams(self, *params):
        pass

    def add_image(self, name, pixels, step, dataformats):
        assert dataformats == "HWC"
        self.pictures.append((name, step, pixels.shape))

    def finalize(self, status):
        self.ends.append(status)


@pytest.fixture
def told(monkeypatch):
    """A logger in the place of TensorBoard's."""
    told = Told()
    monkeypatch.setitem(loggers.BUILDERS, "tensorboard", lambda folder, title: told)
    return told


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "preview.png")
    return tmp_path / "preview.png"


@pytest.mark.parametrize("name", ["tensorbord", "", "csvs", "None"])
def test_an_unknown_logger_is_refused(name):
    with pytest.raises(UserError, match="choose one of csv, tensorboard, wandb, mlflow"):
        check_logger(name)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_that_is_not_installed_comes_with_the_command_that_installs_it(monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        check_logger(name)
    assert f'pip install "disdiff[{name}]"' in str(caught.value) and "\n" not in str(caught.value)
    check_logger("csv")
    monkeypatch.setattr(loggers, "find_spec", lambda name: object())
    check_logger(name)


def test_only_the_csv_log_is_written_unless_another_is_asked_for(tmp_path, run, tiny_task, monkeypatch, told):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())  # TensorBoard is installed
    run(tiny_task(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "resume.ckpt"}
    assert not told.values


def test_a_logger_is_told_what_the_csv_log_says(tmp_path, run, tiny_task, monkeypatch, told):
    monkeypatch.setattr("ldm.training.fit.LOG_EVERY", 10)
    task, plain = tiny_task(), tiny_task()
    run(task, tmp_path / "a", logger="tensorboard")
    rows = {int(row.pop("step")): row for row in read_log(tmp_path / "a" / "log.csv")}
    assert list(told.values) == list(rows) == [10, 20, 30]
    for step, row in rows.items():
        assert told.values[step] == pytest.approx({name: float(row[name]) for name in told.values[step]})
        assert told.values[step].keys() == row.keys() - {"images_per_second"}
    assert told.ends == ["success"]
    run(plain, tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), plain.parameters(), strict=True))


def test_a_logger_gets_the_preview(tmp_path, run, adversarial_task, told):
    task = adversarial_task()
    task.config.preview_steps = 20
    run(task, tmp_path, images=True, logger="tensorboard")
    with Image.open(tmp_path / "preview.png") as image:
        shape = (image.height, image.width, 3)
    assert told.pictures == [("preview", 20, shape), ("preview", 30, shape)]


def test_a_logger_that_cannot_start_is_named_before_training(tmp_path, run, tiny_task, monkeypatch):
    def fail(folder, title):
        raise RuntimeError("No API key configured.\nLog in.")

    monkeypatch.setitem(loggers.BUILDERS, "wandb", fail)
    task = tiny_task(kill_at=0)
    with pytest.raises(
        UserError, match=r"trainer.logger=wandb fails \(No API key configured.\); .*logger=csv"
    ):
        run(task, tmp_path, logger="wandb")


def test_a_logger_that_fails_later_leaves_the_checkpoint(tmp_path, run, tiny_task, monkeypatch, told):
    monkeypatch.setattr("ldm.training.fit.LOG_EVERY", 10)
    told.breaks_at = 20
    with pytest.raises(UserError, match=r"tensorboard fails \(the server is away\)"):
        run(tiny_task(), tmp_path, logger="tensorboard")
    resumed, whole = tiny_task(), tiny_task()
    run(resumed, tmp_path)
    run(whole, tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_results_are_told_by_their_path(tmp_path, picture, told):
    tree = {
        "scores": {"paper": {"dci": {"d": 0.5, "importance": [[1.0]], "note": "x"}, "n": 3, "on": True}},
        "editing": None,
        "psnr": float("inf"),
        "mse": float("nan"),
    }
    assert dict(list_numbers(tree)) == {"scores/paper/dci/d": 0.5, "scores/paper/n": 3.0}
    log_results("tensorboard", tmp_path, tree, [picture], 7)
    assert told.values == {7: {"scores/paper/dci/d": 0.5, "scores/paper/n": 3.0}}
    assert told.pictures == [("preview", 7, (4, 6, 3))] and told.ends == ["success"]
    log_results("csv", tmp_path, tree, [picture], 8)
    assert 8 not in told.values


class Wandb(WandbLogger):
    """One that is told pictures and the end of its run."""

    def __init__(self):
        self.pictures, self.finished = [], 0

    experiment = property(lambda self: self)

    def log_image(self, key, images, step=None):
        self.pictures.append((key, [image.size for image in images], step))

    def finish(self):
        self.finished += 1


def test_each_stage_is_a_run_of_its_own_of_wandb(tmp_path, picture, monkeypatch):
    titles, made = [], [Wandb(), Wandb()]
    monkeypatch.setitem(
        loggers.BUILDERS, "wandb", lambda folder, title: titles.append(title) or made[len(titles) - 1]
    )
    for name, logger in zip(("one", "two"), made, strict=True):
        with open_logger("wandb", tmp_path / "runs" / "mine" / name) as opened:
            assert opened is logger
            log_picture(opened, "preview", picture, 3)
            assert not logger.finished
        assert logger.finished == 1 and logger.pictures == [("preview", [(6, 4)], 3)]
    assert titles == ["runs/mine/one", "runs/mine/two"]


class MLFlow(MLFlowLogger):
    """One that is told pictures."""

    run_id = "r"

    def __init__(self):
        self.pictures = []

    experiment = property(lambda self: self)

    def log_image(self, run_id, image, artifact_file):
        self.pictures.append((run_id, image.size, artifact_file))


def test_mlflow_keeps_pictures_by_step(picture):
    logger = MLFlow()
    for step in (3, 1200):
        log_picture(logger, "preview", picture, step)
    assert logger.pictures == [("r", (6, 4), "preview-00000003.png"), ("r", (6, 4), "preview-00001200.png")]


def test_tensorboard_itself(tmp_path, run, adversarial_task):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(adversarial_task(), tmp_path, images=True, logger="tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["preview"] and "loss" in events.Tags()["scalars"]
    rows = read_log(tmp_path / "log.csv")
    assert events.Scalars("loss")[-1].value == pytest.approx(float(rows[-1]["loss"]))
