"""The pipeline of `disdiff train`: load or train each stage of a run, then write the results."""

import logging
import time
from dataclasses import asdict

from disdiff.config import sizes
from disdiff.config.schema import merge, read_yaml, to_yaml
from disdiff.config.trees import first_difference
from disdiff.metrics.protocols import LEAST_IMAGES, get_protocol, name_protocol
from disdiff.runs.context import Context
from disdiff.runs.stages import RECORD, copy_stage, list_stages
from disdiff.runs.training import train_stage
from ldm.errors import UserError
from ldm.files import atomic_path, load_json
from ldm.training.optimizer import resolve_budget
from ldm.training.ranks import BatchPart, main_first, read_ranks

log = logging.getLogger(__name__)


def run_pipeline(context: Context) -> None:
    """Train the missing stages, then evaluate and write scores and pictures.

    Raises:
        UserError: the data are invalid, the loss diverges, a folder cannot be written, the run folder belongs
            to another configuration, a batch cannot be split, or there are too few images.
    """
    check_images(context)
    check_batches(context)
    with main_first() as first:
        if first:
            open_run_folder(context)
    protocol = get_protocol(context.config.evaluation.protocol)
    num_images, labelled = len(context.eval_index), context.source.factor_space is not None
    if labelled and LEAST_IMAGES <= num_images < protocol.num_rows:
        log.info(f"note: protocol {name_protocol(protocol.name, num_images)}")
    elif labelled and num_images < protocol.num_rows:
        log.info(
            f"note: no scores, because protocol {protocol.name} needs {protocol.num_rows} evaluation images "
            f"but there are {num_images} (evaluation.num_images)"
        )
    start = time.monotonic()
    # computed before training, so it is equal in all processes
    todo = {name for name, stage in context.stages.items() if not stage.trained}
    for name, stage in context.stages.items():
        if name in todo:
            train_stage(context, name)
        else:
            log.info(f"{name}: loaded from {stage.folder}")
        with main_first() as first:  # the first process saves, the others load
            stage.load(context.modules[name])
            if first:
                copy_stage(stage, context.folder / "stages" / name)
    if context.model is not None:
        with main_first() as first:
            if first:
                # imported here, because only the last stage needs figures and metrics
                from disdiff.runs.results import write_results

                write_results(context, time.monotonic() - start)
    if context.config.preset == "smoke":
        log.info("preset smoke checks the installation only: its scores and pictures mean nothing")
    log.info(f"results in {context.folder}")


def check_images(context: Context) -> None:
    """Raise UserError if the data have too few images for a code; the message names the number needed."""
    if context.model is not None:
        needed = 0 if context.stages["code"].trained else context.model.images_needed
        sizes.check_images(context.config, needed, len(context.train_index), len(context.eval_index))
        if context.source.factor_space is not None:
            sizes.check_probe(context.config, len(context.source), len(context.eval_index))


def check_batches(context: Context) -> None:
    """Raise UserError if the batches of a stage that is not trained yet cannot be split.

    A batch is divided among processes and the parts of `trainer.accumulate`. A part of one image is too small
    if the code is normalised over the batch.
    """
    for name, stage in context.stages.items():
        if not stage.trained and context.has_parameters(name):
            budget = resolve_budget(getattr(context.config, name).train, context.machine.device)
            parts = 1 if name == "autoencoder" else context.machine.accumulate
            rows = BatchPart(0, read_ranks().size * parts).rows(budget.batch_size)
            if rows.stop == 1 and name == "code" and context.config.code.encoder.code_norm == "batch":
                raise UserError(
                    "code.encoder.code_norm=batch needs at least two images at a time, but a step of "
                    "stage code sees one at a time; raise code.train.batch_size, lower "
                    "trainer.accumulate, or set code.encoder.code_norm=none"
                )


def open_run_folder(context: Context) -> None:
    """Write `config.yaml` into the run folder, or check that an existing one describes the same weights.

    Raises:
        UserError: the folder belongs to another configuration.
    """
    path = context.folder / "config.yaml"
    if path.exists():
        other = merge([read_yaml(path)])
        hashes = {stage.name: stage.hash for stage in list_stages(other, context.source, context.folder)}
        records = [context.folder / "stages" / name / RECORD for name in hashes]
        hashes |= {path.parent.name: load_json(path)["hash"] for path in records if path.exists()}
        own = {name: stage.hash for name, stage in context.stages.items()}
        if "latent_dpm" not in hashes:  # a latent DPM may be added to a finished run
            own.pop("latent_dpm", None)
        if hashes != own:
            key = first_difference(asdict(other), asdict(context.config)) or "the data set"
            raise UserError(
                f"{context.folder} belongs to another configuration ({key} differs); "
                "choose another run.name, or delete that folder"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(to_yaml(context.config), encoding="utf-8")
