"""The main job: each stage of a run is loaded where it is trained, else trained; then results."""

import logging
import time

from disdiff.config import sizes
from disdiff.config.schema import merge, read_yaml, to_container, to_yaml
from disdiff.config.trees import first_difference
from disdiff.metrics.protocols import get_protocol
from disdiff.runs.context import Context
from disdiff.runs.stages import RECORD, copy_stage, list_stages
from disdiff.runs.training import train_stage
from ldm.errors import UserError
from ldm.files import atomic_path, load_json
from ldm.training.optimizer import resolve_budget
from ldm.training.ranks import Share, main_first, read_ranks

log = logging.getLogger(__name__)


def run_pipeline(context: Context) -> None:
    """Train what is not trained, then evaluate and draw.

    Raises:
        UserError: bad data, a diverging loss, an unwritable folder, a run folder of another configuration, a
    batch that cannot be shared, too few images.
    """
    check_images(context)
    check_batches(context)
    with main_first() as first:
        if first:
            open_run_folder(context)
    protocol = get_protocol(context.config.evaluation.protocol)
    if len(context.eval_index) < protocol.num_rows:
        log.info(
            f"note: no scores, since protocol {protocol.name} needs {protocol.num_rows} evaluation images "
            f"and here are {len(context.eval_index)} (evaluation.num_images)"
        )
    start = time.monotonic()
    todo = {name for name, stage in context.stages.items() if not stage.trained}  # for all processes
    for name, stage in context.stages.items():
        if name in todo:
            train_stage(context, name)
        else:
            log.info(f"{name}: loaded from {stage.folder}")
        with main_first() as first:  # which has saved it; the others load it
            stage.load(context.modules[name])
            if first:
                copy_stage(stage, context.folder / "stages" / name)
    if context.model is not None:
        with main_first() as first:
            if first:
                # here, as only the last stage needs figures and metrics
                from disdiff.runs.results import write_results

                write_results(context, time.monotonic() - start)
    log.info(f"results in {context.folder}")


def check_images(context: Context) -> None:
    """Refuse too few images for a code and its results, before any stage is trained.

    Raises:
        UserError: there are fewer, naming how many are needed, and what fewer are good for.
    """
    if context.model is not None:
        needed = 0 if context.stages["code"].trained else context.model.images_needed
        sizes.check_images(context.config, needed, len(context.train_index), len(context.eval_index))


def check_batches(context: Context) -> None:
    """Refuse batches that cannot be shared, or normalised over, before any stage is trained.

    Raises:
        UserError: the processes, and the parts of `trainer.accumulate`, do not divide a batch, or leave one
            image where the code is normalised over images.
    """
    for name, stage in context.stages.items():
        if not stage.trained and context.has_parameters(name):
            budget = resolve_budget(getattr(context.config, name).train, context.machine.device)
            parts = 1 if name == "autoencoder" else context.machine.accumulate
            rows = Share(0, read_ranks().size * parts).rows(budget.batch_size)
            if rows.stop == 1 and name == "code" and context.config.code.encoder.code_norm == "batch":
                raise UserError(
                    "code.encoder.code_norm=batch normalises over two images at least, but a step of "
                    "stage code sees one at a time; raise code.train.batch_size, lower "
                    "trainer.accumulate, or set code_norm=none"
                )


def open_run_folder(context: Context) -> None:
    """Write `config.yaml` into the run folder, or check that the one there asks for the same weights.

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
        if "latent_dpm" not in hashes:  # it may be added to a finished run
            own.pop("latent_dpm", None)
        if hashes != own:
            key = first_difference(to_container(other), to_container(context.config)) or "the data set"
            raise UserError(
                f"{context.folder} belongs to another configuration ({key} differs); "
                "choose another run.name, or delete that folder"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(to_yaml(context.config))
