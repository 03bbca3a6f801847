"""A run folder: what a finished (or shipped) run holds, and how to load it back.

config.yaml        the complete configuration        stages/<name>/    weights, record and log of each stage
metrics.json       scores                            codes.npz         codes and factors of the evaluation
images log.csv            of the last stage                 *.png, report.html
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from disdiff.build import build_denoiser, build_latent_space, build_model, build_source, get_system
from disdiff.clip.options import look_inside
from disdiff.config.limits import check_limits
from disdiff.config.places import find
from disdiff.config.schema import Config, merge, read_yaml, to_container
from disdiff.evaluation.codes_file import read_run_codes
from disdiff.method.model import ImageModel
from disdiff.runs.stages import RECORD
from ldm.data.source import ImageSource
from ldm.errors import UserError
from ldm.files import load_json
from ldm.nn.layers import freeze
from ldm.training.weight_files import WEIGHTS, load_weights


@dataclass
class Run:
    """A loaded run.

    Attributes:
        folder: of the run.
        config: complete.
        model: frozen, in evaluation mode.
    """

    folder: Path
    config: Config
    model: ImageModel

    @cached_property
    def source(self) -> ImageSource:
        """The data set of the run."""
        return build_source(self.config.data)

    def codes(self, *labels: str) -> dict[str, np.ndarray] | None:
        """Codes (n, N, D), factor_names (F,) and the arrays `labels` of `codes.npz`; None without it."""
        return read_run_codes(self.folder, *labels)

    def metrics(self) -> dict[str, Any] | None:
        """Content of `metrics.json`, or None."""
        path = self.folder / "metrics.json"
        return load_json(path) if path.exists() else None


def load_run(folder: str | Path, device: str = "cpu", guidance: float | None = None) -> Run:
    """Load a run folder.

    Args:
        folder: for instance `runs/disdiff-shapes3d-small-s0` or `pretrained/shapes3d`.
        device: for the model.
        guidance: another `sampler.guidance` than the run's own.

    Raises:
        UserError: the folder is none of a finished run, or its files are damaged.
    """
    folder = find(folder)
    if not (folder / "config.yaml").exists():
        raise UserError(
            f"{folder} is no run folder (it has no config.yaml); give one that the main job wrote"
        )
    config = merge([read_yaml(folder / "config.yaml")])
    config.clip = look_inside(config.clip, folder)  # an exported run brings its CLIP
    if guidance is not None:
        config.sampler.guidance = guidance
        check_limits(to_container(config))
    stages = get_system(config).stages
    image_size = load_json(folder / "stages" / stages[-1] / RECORD)["image_size"]
    latent_space = build_latent_space(config)
    denoiser = build_denoiser(config, latent_space)
    model = build_model(config, latent_space, denoiser, image_size)
    if model is None:
        raise UserError(f"{folder} is a run of {config.system} alone, which finds no code; give another run")
    modules = {"autoencoder": latent_space, "latent_diffusion": denoiser, "factors": model.factors}
    for name in stages:
        load_weights(folder / "stages" / name / WEIGHTS, modules[name])
    return Run(folder, config, freeze(model).to(device))
