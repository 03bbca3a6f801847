"""Load a run folder, the output of a finished run. Shipped models have the same layout.

config.yaml            the complete configuration
metrics.json           scores
codes.npz              codes and factors of the evaluation images
stages/<name>/         weights, record and log of each stage
log.csv                training log of the last stage
*.png, report.html     pictures and report
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disdiff.build import build_denoiser, build_latent_space, build_model, build_source, get_system
from disdiff.config.clip_options import resolve_inside
from disdiff.config.places import find
from disdiff.config.schema import Config, merge, read_yaml
from disdiff.editing.unit_lookup import DISCOVERY, UnitTable
from disdiff.editing.unit_names import UnitNames, name_data, name_scored_units, name_units
from disdiff.evaluation.codes_file import read_run_codes
from disdiff.evaluation.edit_success import find_probe
from disdiff.evaluation.probe import Probe
from disdiff.method.model import ImageModel
from disdiff.runs.stages import RECORD, shared_folder
from ldm.data.catalog import choose_crop
from ldm.data.factor_space import FactorSpace
from ldm.data.source import ImageSource, split_indices, to_float
from ldm.errors import UserError
from ldm.files import expand_home, load_json
from ldm.nn.layers import freeze
from ldm.numbers import NOT_NEGATIVE
from ldm.training.weight_files import WEIGHTS, load_weights


@dataclass
class AbsentSource:
    """The data set of a run whose images are not on this machine.

    It is enough to prepare pictures as the training images were; asking for images raises `error`.
    """

    name: str
    procedural: bool
    image_size: int
    channels: int
    crop: str
    error: UserError
    identity: str = "absent"
    factor_space: FactorSpace | None = None

    def __len__(self) -> int:
        raise self.error

    def images(self, index: Tensor) -> Tensor:
        """Raise the reason why there are no images."""
        raise self.error

    def factors(self, index: Tensor) -> Tensor:
        """Raise the reason why there are no images."""
        raise self.error


@dataclass
class Run:
    """A loaded run.

    Attributes:
        folder: the run folder.
        config: the complete configuration.
        model: the model, frozen and in evaluation mode.
    """

    folder: Path
    config: Config
    model: ImageModel

    @cached_property
    def source(self) -> ImageSource:
        """The data set of the run, as `AbsentSource` if it is not here.

        A relative `data.root` is looked for in the working directory, then in the folder that holds `runs`.
        """
        data, beside = self.config.data, self.folder.resolve().parent.parent / self.config.data.root
        if not expand_home(data.root).exists() and beside.exists():
            data = replace(data, root=str(beside))
        try:
            return build_source(data)
        except UserError as error:
            stage = get_system(self.config).stages[-1]
            return AbsentSource(
                data.name,
                bool(((self.metrics() or {}).get("dataset") or {}).get("procedural")),
                load_json(self.folder / "stages" / stage / RECORD)["image_size"],
                self.config.autoencoder.network.in_channels,
                choose_crop(data.name, data.crop),
                error,
            )

    def codes(self, *labels: str) -> dict[str, np.ndarray] | None:
        """Read `codes` (n, N, D), `factor_names` (F,) and the arrays `labels`; None without a `codes.npz`."""
        return read_run_codes(self.folder, *labels)

    def metrics(self) -> dict[str, Any] | None:
        """Content of `metrics.json`, or None."""
        path = self.folder / "metrics.json"
        return load_json(path) if path.exists() else None

    def require_codes(self, *labels: str) -> dict[str, np.ndarray]:
        """The same as `codes`; UserError if there is no `codes.npz`."""
        codes = self.codes(*labels)
        if codes is None:
            raise UserError(f"{self.folder} has no codes.npz; finish the run with disdiff train first")
        return codes

    @property
    def scores(self) -> dict[str, Any] | None:
        """Scores of the protocol `paper`, else of the first protocol, else None."""
        scores = (self.metrics() or {}).get("scores") or {}
        return scores.get("paper") or next(iter(scores.values()), None)

    @property
    def title(self) -> str:
        """Data set and run name, for the subtitle of pictures; a run named as its data set is named once."""
        name = self.folder.resolve().name
        data = name_data(self.source.name, self.source.procedural)
        return data if name == self.source.name else f"{data} · {name}"

    def unit_names(self) -> UnitNames:
        """Names of the units; numbers if there are no codes or no scores."""
        codes = self.codes()
        if codes is None:
            return name_units(self.model.num_units, None, [])
        return name_scored_units(codes, self.scores)

    def unit_table(self) -> UnitTable:
        """Table of the units' names and importances, from the files of the folder."""
        arrays, path = self.codes() or {}, self.folder / DISCOVERY
        importance = (self.scores or {}).get("dci", {}).get("importance")
        found = load_json(path).get("units", []) if path.exists() else []
        named = {each["unit"]: each["name"] for each in found if each.get("verdict") == "named"}
        return UnitTable(
            self.model.num_units,
            [str(name) for name in arrays.get("factor_names", [])],
            None if importance is None else np.asarray(importance),
            [named.get(unit) for unit in range(self.model.num_units)],
        )

    @cached_property
    def eval_index(self) -> Tensor:
        """Indices of the evaluation images, shape (n,) int64."""
        return split_indices(self.source, self.config.data.num_train, self.config.evaluation.num_images)[1]

    def draw_indices(self, num_images: int, seed: int) -> Tensor:
        """Indices of random evaluation images, shape (num_images,) int64."""
        generator = torch.Generator().manual_seed(seed)
        return self.eval_index[torch.randint(len(self.eval_index), (num_images,), generator=generator)]

    def draw_images(self, num_images: int, seed: int) -> Tensor:
        """Random evaluation images, shape (num_images, 3, H, W) in [-1, 1]."""
        return to_float(self.source.images(self.draw_indices(num_images, seed)))

    def find_probe(self, progress: Callable[[float], None]) -> Probe:
        """The probe that judges the run's edits: trained on first use, then kept for runs on the same data.

        Args:
            progress: called with the completed fraction of its training.

        Raises:
            UserError: the images have no factor labels.
        """
        config, source = self.config, self.source
        if source.factor_space is None:
            raise UserError(f"the images of {source.name} have no factor labels, which the probe needs")
        data = (shared_folder(config), self.model.latent_space, source, self.eval_index)
        return find_probe(*data, config.evaluation.probe_steps, config.evaluation.seed, progress)


def load_run(folder: str | Path, device: str = "cpu", guidance: float | None = None) -> Run:
    """Load a run folder.

    Args:
        folder: for example `runs/disdiff-shapes3d-small-s0` or `pretrained/shapes3d`.
        device: device of the model.
        guidance: replaces `sampler.guidance` of the run; None keeps it.

    Raises:
        UserError: the folder is not a finished run folder, or a file is damaged.
    """
    folder = find(folder)
    if not (folder / "config.yaml").exists():
        raise UserError(
            f"{folder} is not a run folder (it has no config.yaml); give a folder that disdiff train wrote"
        )
    config = merge([read_yaml(folder / "config.yaml")])
    config.clip = resolve_inside(config.clip, folder)  # an exported run contains its CLIP
    if guidance is not None:
        config.sampler.guidance = NOT_NEGATIVE.check("sampler.guidance", guidance)
    stages = get_system(config).stages
    image_size = load_json(folder / "stages" / stages[-1] / RECORD)["image_size"]
    latent_space = build_latent_space(config)
    denoiser = build_denoiser(config, latent_space)
    model = build_model(config, latent_space, denoiser, image_size)
    if model is None:
        raise UserError(
            f"{folder} is a run of {config.system}, which has no code; give a run of another system"
        )
    modules = {"autoencoder": latent_space, "latent_diffusion": denoiser, "code": model.networks}
    for name in stages:
        load_weights(folder / "stages" / name / WEIGHTS, modules[name])
    return Run(folder, config, freeze(model).to(device))
