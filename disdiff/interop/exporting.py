"""A run as a folder to hand on: weights of all stages, configuration, scores, codes, and a card.

    README.md      the card                stages/<name>/   weights (safetensors) and record of each stage
    config.yaml    of no machine           codes.npz        for names and directions of units
    metrics.json   scores                  *.png            pictures of the run

It is laid out like a run folder, so that `disdiff.load` and every script take it, and like a repository of a
hub, so that it can be uploaded as it is. Logs, the report and caches stay behind; so do paths of this machine
and the names of pictures that could not be read.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from disdiff.build import list_stage_names
from disdiff.config.clip_options import ClipConfig, rebase_paths
from disdiff.config.places import find
from disdiff.config.schema import Config, RunConfig, TrainerConfig, WeightsConfig, to_yaml
from disdiff.editing.unit_lookup import DISCOVERY
from disdiff.interop.card import Facts, check_licence, write_card
from disdiff.interop.run_folder import REPORT
from disdiff.runs.run_folder import Run, load_run
from disdiff.runs.stages import RECORD
from ldm.errors import UserError
from ldm.files import expand_home, load_json, save_json
from ldm.training.weight_files import WEIGHTS, fingerprint

CARD, METRICS = "README.md", "metrics.json"
EXTRAS = ("codes.npz", DISCOVERY, REPORT)
PICTURES = ("traversal.png", "swap.png", "reconstruction.png", "samples.png", "fields.png")


def export_run(
    folder: str | Path, target: str | Path, licence: str | None = None, hub: str | None = None
) -> Path:
    """Write a finished run into a new folder, and load it back.

    Args:
        folder: of the run.
        target: new, or empty; it appears when it is complete, or not at all.
        licence: of the weights, as hubs name it, such as `mit`; None leaves it open.
        hub: name under which a hub will have it; the card says how to load it from there.

    Returns:
        `target`.

    Raises:
        UserError: the folder is none of a finished run, its files are damaged or do not belong together, or
            the target is taken or cannot be written.
    """
    target = Path(os.path.abspath(expand_home(target)))
    check_licence(licence)
    run = load_run(folder)
    run.codes()  # a damaged file is not handed on
    metrics = read_metrics(run)
    with new_folder(target) as place:
        stages = copy_stages(run, place)
        for name in (*EXTRAS, *PICTURES):
            if (run.folder / name).exists():
                shutil.copyfile(run.folder / name, place / name)
        if metrics is not None:
            save_json(place / METRICS, metrics)
        (place / "config.yaml").write_text(to_yaml(make_portable(run.config, place)))
        (place / CARD).write_text(write_card(run, Facts(target.name, stages, metrics, licence, hub)))
        if fingerprint(load_run(place).model) != fingerprint(run.model):
            raise UserError(f"{target} does not give back what was written to it; check the disk")
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which becomes it on success and is removed on failure.

    Raises:
        UserError: `target` is there and not empty, or cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{target} is not empty; choose another place")
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        reason = f"{error.strerror or error}; free some space or choose another place"
        raise UserError(f"cannot write {target}: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_stages(run: Run, place: Path) -> dict[str, dict]:
    """Copy weights and records of a run's stages; returns the records by name.

    Raises:
        UserError: a record is damaged.
    """
    records = {}
    for name in list_stage_names(run.config):
        source = run.folder / "stages" / name
        if not (source / RECORD).exists():  # a latent DPM may be asked for and not yet trained
            continue
        (place / "stages" / name).mkdir(parents=True)
        for file in (WEIGHTS, RECORD):
            shutil.copyfile(source / file, place / "stages" / name / file)
        records[name] = load_json(source / RECORD)
    return records


def read_metrics(run: Run) -> dict | None:
    """A run's `metrics.json` without names of the user's files; None where there is none.

    Raises:
        UserError: it is damaged, or of other weights than those in the folder.
    """
    metrics = run.metrics()
    if metrics is None:
        return None
    for name, noted in metrics.get("stages", {}).items():
        path = run.folder / "stages" / name / RECORD
        if path.exists() and load_json(path).get("hash") != noted.get("hash"):
            raise UserError(f"{run.folder}: metrics.json is of another {name}; run the main job again")
    data = dict(metrics.get("dataset") or {})
    if isinstance(data.get("skipped"), list):
        data["skipped"] = f"{len(data['skipped'])} pictures"
    return {**metrics, "dataset": data}


def make_portable(config: Config, place: Path) -> Config:
    """A configuration without paths and choices of one machine; hashes of trained stages stay as they are.

    A CLIP and prompts that lie on this machine are copied into `place`, and found there by `load_run`.
    """

    def bring(text: str) -> str:
        """Copy a file or folder that is here and return its path within `place`; a tag of weights stays."""
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
        data=replace(config.data, root=f"data/{config.data.name}", attributes=None, num_workers=0),
        clip=rebase_paths(config.clip, bring) if config.system == "disdiff_clip" else ClipConfig(),
        weights=WeightsConfig(),
        trainer=TrainerConfig(),
    )
