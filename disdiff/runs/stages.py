"""Trained stages on disk, identified by a hash of everything that their weights depend on.

The hash covers the stage's configuration, the data, the seed and the hash of the previous stage, so systems
with the same first stages share them. A stage counts as trained once its folder has `stage.json`, which is
written last.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from disdiff.build import get_system, list_stage_names
from disdiff.config.places import PRETRAINED
from disdiff.config.schema import Config, select
from ldm.data.source import ImageSource
from ldm.files import atomic_path, digest_json, load_json, save_json
from ldm.training.optimizer import WITHOUT_EFFECT
from ldm.training.weight_files import WEIGHTS, load_weights, save_weights

RECORD = "stage.json"
SAMPLES = "samples.png"  # of the frozen model
OF_ONE_RUN = ("code", "latent_dpm")  # stages in the run folder; all others are shared
# keys that are younger than existing stages: with its default value such a key does not enter the hash
ADDED_KEYS = {
    *("autoencoder.noise_share", "autoencoder.start"),
    *("conditional.skip_dropout", "conditional.anchors"),
    *("code.loss.auxiliary", "code.loss.weight_correlation", "code.encoder.start_reads"),
    *("code.loss.correlation_memory", "code.loss.contradiction", "code.loss.contradict_by"),
}


@dataclass
class Stage:
    """A stage of a run.

    Attributes:
        name: `autoencoder`, `latent_diffusion`, `code` or `latent_dpm`.
        hash: hash of everything that the weights depend on.
        folder: folder of the trained stage, which may not exist yet.
    """

    name: str
    hash: str
    folder: Path

    @property
    def trained(self) -> bool:
        """Whether the stage is trained."""
        return (self.folder / RECORD).exists()

    @property
    def record(self) -> dict[str, Any]:
        """Record of the training: seconds, steps, images, hash, scores."""
        return load_json(self.folder / RECORD)

    def save(self, module: nn.Module, record: dict[str, Any]) -> None:
        """Save the weights of `module`, then the record that marks the stage as trained."""
        save_weights(self.folder / WEIGHTS, module)
        save_json(self.folder / RECORD, {"stage": self.name, "hash": self.hash, **record})
        (self.folder / "resume.ckpt").unlink(missing_ok=True)

    def load(self, module: nn.Module) -> None:
        """Load the weights into `module`."""
        load_weights(self.folder / WEIGHTS, module)


def list_stages(config: Config, source: ImageSource, run_folder: Path) -> list[Stage]:
    """The stages of a run, in order; shared stages may be shipped ones."""
    data = {"identity": source.identity, "num_train": config.data.num_train}
    below, stages = None, []
    for name in list_stage_names(config):
        own = name in OF_ONE_RUN
        seed = config.seed if own else config.stage_seed
        digest = hash_stage(name, list_settings(config, name), data, seed, below)
        folder = run_folder / "stages" / name if own else find_folder(config, name, digest)
        stages.append(Stage(name, digest, folder))
        below = digest
    return stages


def list_settings(config: Config, name: str) -> dict[str, Any]:
    """The part of the configuration that a stage's weights depend on.

    A section with default values only is left out, and so is each of `ADDED_KEYS`, so that a new section or
    key does not change existing hashes.
    """
    defaults = asdict(getattr(Config(), name))
    section = drop_added(asdict(getattr(config, name)), defaults, f"{name}.")
    if name != "code":
        return {key: value for key, value in section.items() if key != "enabled"}
    system = get_system(config)
    own = {key: value for key, value in section.items() if key not in system.unread}
    for key in system.sections:
        value, default = select(config, key), select(Config(), key)
        if value != default:
            own[key] = drop_added(value, default, f"{key}.") if isinstance(value, dict) else value
    return own


def drop_added(section: dict[str, Any], defaults: dict[str, Any], prefix: str) -> dict[str, Any]:
    """`section` without those of `ADDED_KEYS` that stand at their defaults; `prefix` is its dotted key."""
    return {
        key: drop_added(value, defaults[key], f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in section.items()
        if f"{prefix}{key}" not in ADDED_KEYS or value != defaults[key]
    }


def find_folder(config: Config, name: str, digest: str) -> Path:
    """Folder of a shared stage: that of a shipped stage with this hash if allowed, else one in `run.root`."""
    if config.stages.pretrained:
        for record in sorted(PRETRAINED.glob(f"*/stages/{name}/{RECORD}")):
            if load_json(record)["hash"] == digest:
                return record.parent
    return shared_folder(config) / f"{name}-{digest}"


def shared_folder(config: Config) -> Path:
    """Folder for what several runs share: stages, caches, probes."""
    return Path(config.run.root) / "_stages"


def hash_stage(name: str, section: dict, data: dict, seed: int, below: str | None) -> str:
    """Hash (12 hexadecimal digits) of everything that the stage's weights depend on."""
    train = {key: value for key, value in section["train"].items() if key not in WITHOUT_EFFECT}
    content = [name, {**section, "train": train}, data, seed, below]
    return digest_json(content)


def copy_stage(stage: Stage, folder: Path) -> None:
    """Copy a trained stage's weights and record into `folder`, as hard links where possible."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, "log.csv", SAMPLES, RECORD):
        source, target = stage.folder / name, folder / name
        if not source.exists() or (target.exists() and os.path.samefile(source, target)):
            continue
        with atomic_path(target) as temporary:
            try:
                os.link(source, temporary)
            except OSError:  # on another file system
                shutil.copyfile(source, temporary)
