"""What a run works on: configuration, data, split, machine, folder, stages and the networks they train."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from disdiff.baselines.latent_dpm import LatentDPM
from disdiff.build import (
    System,
    build_denoiser,
    build_latent_dpm,
    build_latent_space,
    build_model,
    build_source,
    get_system,
)
from disdiff.config.schema import Config, to_container
from disdiff.config.sizes import check_sampler
from disdiff.method.model import ImageModel
from disdiff.metrics.protocols import get_protocol
from disdiff.runs.stages import Stage, list_stages
from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.pictures import name_some
from ldm.data.source import ImageSource, describe_source, split_indices
from ldm.diffusion.sampler import SAMPLERS
from ldm.errors import choose
from ldm.nn.unet import UNet
from ldm.training.machine import Machine, configure_process, resolve_machine
from ldm.training.ranks import read_ranks
from ldm.training.threads import list_counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """Everything that training, evaluation and reports of one run share.

    Attributes:
        config: complete.
        system: what the configuration trains.
        machine: to compute on.
        source: the images.
        train_index: images to train on, shape (n,) int64.
        eval_index: images to evaluate on, shape (m,) int64.
        folder: of the run.
        stages: by name, in order.
        latent_space: stage 1, its weights loaded or trained by `disdiff.runs.training`.
        denoiser: stage 2.
        model: the system on these stages; None for a system that is one of them.
        latent_dpm: a diffusion model of the codes; None without `model`.
        thread_counts: numbers of CPU threads to choose from.
        step_seconds: of a training step, by stage, once `disdiff.runs.overview` has tried them.
    """

    config: Config
    system: System
    machine: Machine
    source: ImageSource
    train_index: torch.Tensor
    eval_index: torch.Tensor
    folder: Path
    stages: dict[str, Stage]
    latent_space: LatentSpace
    denoiser: UNet
    model: ImageModel | None
    latent_dpm: LatentDPM | None
    thread_counts: list[int]
    step_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What each stage trains, by the stage's name."""
        shared = {"autoencoder": self.latent_space, "latent_diffusion": self.denoiser}
        if self.model is None:
            return shared
        return {**shared, "code": self.model.networks, "latent_dpm": self.latent_dpm}

    def has_parameters(self, name: str) -> bool:
        """Whether a stage has anything to train; pixel space has no autoencoder."""
        return any(True for _ in self.modules[name].parameters())


def open_context(config: Config) -> Context:
    """Open the data and build the untrained networks of a run; nothing is written.

    Raises:
        UserError: an option is unknown, sizes do not fit, or the data cannot be read.
    """
    system = get_system(config)
    get_protocol(config.evaluation.protocol)
    choose("sampler.name", config.sampler.name, dict.fromkeys(SAMPLERS))
    choose("autoencoder.standardise", config.autoencoder.standardise, {"scalar": None, "channel": None})
    options = {key: value for key, value in to_container(config.trainer).items() if key != "threads"}
    machine = resolve_machine(**options)
    configure_process(machine, config.trainer.threads)
    source = build_source(config.data)
    skipped = describe_source(source).get("skipped", [])
    if skipped:
        log.info(f"note: {len(skipped)} pictures cannot be used and are left out: {name_some(skipped)}")
    folder = Path(config.run.root) / config.run.name
    sizes = config.data.num_train, config.evaluation.num_images
    train_index, eval_index = split_indices(source, *sizes)
    stages = {stage.name: stage for stage in list_stages(config, source, folder)}
    torch.manual_seed(config.stage_seed)
    latent_space = build_latent_space(config)
    denoiser = build_denoiser(config, latent_space)
    torch.manual_seed(config.seed)
    model = build_model(config, latent_space, denoiser, source.image_size)
    check_sampler(config, model)
    latent_dpm = None if model is None else build_latent_dpm(config, model)
    return Context(
        config,
        system,
        machine,
        source,
        train_index,
        eval_index,
        folder,
        stages,
        latent_space,
        denoiser,
        model,
        latent_dpm,
        list_counts(config.trainer.threads, machine.device, read_ranks().size),
    )
