"""Export a run as a self-contained folder with weights, configuration, scores, codes and a model card.

    README.md          the model card
    config.yaml        configuration without paths of this machine
    metrics.json       scores
    codes.npz          codes, for names and directions of units
    stages/<name>/     weights (safetensors) and record of each stage
    *.png, *.gif       pictures of the run

The folder has the layout of a run folder, so `disdiff.load` and every command accept it, and of a hub
repository, so it can be uploaded unchanged. Logs, report and caches are not exported, nor are paths of this
machine and names of unreadable pictures.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from disdiff.build import get_system, list_stage_names
from disdiff.config.clip_options import ClipConfig, rebase_paths
from disdiff.config.places import find
from disdiff.config.schema import Config, RunConfig, TrainerConfig, WeightsConfig, to_yaml
from disdiff.editing.unit_lookup import DISCOVERY
from disdiff.interop.card import CardDetails, check_licence, write_card
from disdiff.interop.run_folder import REPORT
from disdiff.report.animation import ANIMATION
from disdiff.runs.run_folder import Run, load_run
from disdiff.runs.stages import RECORD
from ldm.errors import UserError
from ldm.files import expand_home, load_json, save_json
from ldm.training.weight_files import WEIGHTS, fingerprint

CARD, METRICS = "README.md", "metrics.json"
EXTRAS = ("codes.npz", DISCOVERY, REPORT)
PICTURES = ("traversal.png", ANIMATION, "swap.png", "reconstruction.png", "samples.png", "fields.png")


def export_run(
    folder: str | Path, target: str | Path, licence: str | None = None, hub: str | None = None
) -> Path:
    """Export a finished run into a new folder, and load the result as a check.

    Args:
        folder: the run folder.
        target: a new or empty folder; it is created only when the export is complete.
        licence: licence of the weights in the naming of hubs, such as `mit`; None for no statement.
        hub: name of the model on a hub; the card then says how to load it from there.

    Returns:
        `target`.

    Raises:
        UserError: the folder is not a finished run folder, files are damaged or do not belong together, or
            `target` is not empty or cannot be written.
    """
    target = Path(os.path.abspath(expand_home(target)))
    check_licence(licence)
    run = load_run(folder)
    run.codes()  # raises if the file is damaged
    metrics = read_metrics(run)
    with new_folder(target) as place:
        stages = copy_stages(run, place)
        for name in (*EXTRAS, *PICTURES):
            if (run.folder / name).exists():
                shutil.copyfile(run.folder / name, place / name)
        if metrics is not None:
            save_json(place / METRICS, metrics)
        (place / "config.yaml").write_text(to_yaml(make_portable(run.config, place)), "utf-8")
        details = CardDetails(target.name, stages, metrics, licence, hub)
        (place / CARD).write_text(write_card(run, details), "utf-8")
        if fingerprint(load_run(place).model) != fingerprint(run.model):
            raise UserError(f"{target} differs from what was written to it; check the disk")
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `target` on success and removed on failure.

    Raises:
        UserError: `target` is not empty, or cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{target} is not empty; choose another folder")
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        reason = f"{error.strerror or error}; free some space or choose another folder"
        raise UserError(f"cannot write {target}: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_stages(run: Run, place: Path) -> dict[str, dict]:
    """Copy weights and records of a run's stages, and return the records by name.

    Raises:
        UserError: a record is damaged.
    """
    records = {}
    for name in list_stage_names(run.config):
        source = run.folder / "stages" / name
        if not (source / RECORD).exists():  # a configured latent DPM may not be trained yet
            continue
        (place / "stages" / name).mkdir(parents=True)
        for file in (WEIGHTS, RECORD):
            shutil.copyfile(source / file, place / "stages" / name / file)
        records[name] = load_json(source / RECORD)
    return records


def read_metrics(run: Run) -> dict | None:
    """Read a run's `metrics.json` and remove names of the user's files; None if there is no such file.

    Raises:
        UserError: the file is damaged, or belongs to other weights than those in the folder.
    """
    metrics = run.metrics()
    if metrics is None:
        return None
    for name, noted in metrics.get("stages", {}).items():
        path = run.folder / "stages" / name / RECORD
        if path.exists() and load_json(path).get("hash") != noted.get("hash"):
            raise UserError(
                f"{run.folder}/metrics.json belongs to other weights of stage {name}; run disdiff train again"
            )
    data = dict(metrics.get("dataset") or {})
    if isinstance(data.get("skipped"), list):
        data["skipped"] = f"{len(data['skipped'])} pictures"
    return {**metrics, "dataset": data}


def make_portable(config: Config, place: Path) -> Config:
    """A configuration without paths and settings of this machine; stage hashes do not change.

    A local CLIP and local prompts are copied into `place`, where `load_run` finds them.
    """

    def bring(text: str) -> str:
        """Copy a local file or folder and return its path within `place`; keep a weight tag unchanged."""
        path = find(text)
        if not path.exists():
            return text
        copy = f"clip/{path.name}"
        (place / "clip").mkdir(exist_ok=True)
        shutil.copytree(path, place / copy) if path.is_dir() else shutil.copyfile(path, place / copy)
        return copy

    return replace(
        config,
        run=RunConfig(name=config.run.name),
        data=replace(
            config.data, root=f"data/{config.data.name}", attributes=None, factors=None, num_workers=0
        ),
        clip=rebase_paths(config.clip, bring) if get_system(config).depends_on("clip") else ClipConfig(),
        weights=WeightsConfig(),
        trainer=TrainerConfig(),
    )
