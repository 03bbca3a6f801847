"""Loggers beside `log.csv`: TensorBoard, Weights & Biases or MLflow, by Lightning's classes.

A stage is one run of the logger, and the results of a run folder are another. They get the values of
`log.csv`, the preview pictures, and in the end scores and pictures of the run.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ldm.errors import UserError, look_up

PROJECT = "disdiff"  # of Weights & Biases; the experiment of MLflow
TRACKING = ("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")  # where `mlflow ui` looks, too
BUILDERS = {  # by package, which is also the name of its extra
    "csv": None,
    "tensorboard": lambda folder, title: TensorBoardLogger(folder, name="", version="tensorboard"),
    "wandb": lambda folder, title: WandbLogger(title, folder, project=PROJECT),
    "mlflow": lambda folder, title: MLFlowLogger(PROJECT, title, os.environ.get(*TRACKING)),
}


def check_logger(name: str) -> None:
    """Raise UserError if `trainer.logger` is unknown, or its package is not installed."""
    builder = look_up("trainer.logger", name, BUILDERS)
    if builder is not None and find_spec(name) is None:
        raise UserError(
            f"trainer.logger={name} needs a package that is not installed; install it with "
            f'pip install "disdiff[{name}]", or use trainer.logger=csv'
        )


@contextmanager
def open_logger(name: str, folder: Path) -> Iterator[Logger | None]:
    """Yield the logger `name` of a stage or run folder with its run started; None for `csv`.

    Raises:
        UserError: it cannot be used, for example without an account or a server.
    """
    builder = BUILDERS[name]
    if builder is None:
        yield None
        return
    with naming(name):
        logger = builder(folder, "/".join(folder.parts[-3:]))
        experiment = logger.experiment
    try:
        yield logger
    finally:
        if isinstance(logger, WandbLogger):  # or the next stage would go on with this run
            experiment.finish()


def log_values(logger: Logger, values: Mapping[str, float], step: int) -> None:
    """Log numbers; UserError if the logger fails."""
    with naming(name_of(logger)):
        logger.log_metrics(dict(values), step)


def log_picture(logger: Logger, name: str, path: Path, step: int) -> None:
    """Log a picture file; UserError if the logger fails."""
    with naming(name_of(logger)), Image.open(path) as image:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, image, artifact_file=f"{name}-{step:08d}.png")
        else:
            logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def log_results(name: str, folder: Path, tree: Any, pictures: Sequence[Path], step: int) -> None:
    """Log the results of a run with the logger `name`: the finite numbers in `tree`, and `pictures`.

    `tree` is dictionaries in dictionaries; its numbers are logged under their path. The results appear at the
    training step `step`.

    Raises:
        UserError: the logger fails.
    """
    with open_logger(name, folder) as logger:
        if logger is not None:
            log_values(logger, dict(list_numbers(tree)), step)
            for path in pictures:
                log_picture(logger, path.stem, path, step)
            logger.finalize("success")


def list_numbers(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers within dictionaries, each with its path, such as `scores/paper/dci/disentanglement`."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from list_numbers(value, f"{path}/{key}" if path else str(key))
    elif isinstance(tree, int | float) and not isinstance(tree, bool) and math.isfinite(tree):
        yield path, float(tree)


def name_of(logger: Logger) -> str:
    """The value of `trainer.logger` that a logger belongs to."""
    kinds = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}
    return next((name for kind, name in kinds.items() if isinstance(logger, kind)), "tensorboard")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn any error of a logger (accounts, servers and disks have their own kinds) into a UserError."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"trainer.logger={name} fails ({reason}); mend that or use trainer.logger=csv, and the same "
            "command goes on where it stopped"
        ) from error
