"""The context of a run: configuration, data, split, machine, folder, stages and networks."""

import logging
from dataclasses import asdict, dataclass, field
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
from disdiff.config.schema import Config
from disdiff.config.sizes import check_channels, check_image_size, check_sampler
from disdiff.method.model import ImageModel
from disdiff.metrics.protocols import get_protocol
from disdiff.runs.stages import Stage, list_stages
from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.pictures import name_some
from ldm.data.source import ImageSource, describe_source, split_indices
from ldm.diffusion.sampler import SAMPLERS
from ldm.errors import check_option
from ldm.nn.unet import UNet
from ldm.training.checkpoint import Pause
from ldm.training.machine import Machine, configure_process, resolve_machine
from ldm.training.ranks import read_ranks
from ldm.training.threads import list_counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """Everything that training, evaluation and report of one run share.

    Attributes:
        config: the complete configuration.
        system: the system that is trained.
        machine: device, precision and related settings.
        source: the data set.
        train_index: indices of the training images, shape (n,) int64.
        eval_index: indices of the evaluation images, shape (m,) int64.
        folder: the run folder.
        stages: the stages by name, in order.
        latent_space: stage 1; `disdiff.runs.training` loads or trains its weights.
        denoiser: stage 2.
        model: the system on these stages; None for a system that consists of shared stages only.
        latent_dpm: diffusion model of the codes; None without `model`.
        random_state: PyTorch's random state when the networks were built; from it further ones are drawn.
        thread_counts: candidate numbers of CPU threads.
        step_seconds: seconds per training step by stage, filled in by the trial of `disdiff.runs.overview`.
        pause: where training stops for now, see `ldm.training.fit.fit`; None to train to the end.
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
    random_state: torch.Tensor
    thread_counts: list[int]
    step_seconds: dict[str, float] = field(default_factory=dict)
    pause: Pause | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The module that each stage trains, by stage name."""
        shared = {"autoencoder": self.latent_space, "latent_diffusion": self.denoiser}
        if self.model is None:
            return shared
        return {**shared, "code": self.model.networks, "latent_dpm": self.latent_dpm}

    def has_parameters(self, name: str) -> bool:
        """Whether a stage has parameters to train; the autoencoder of pixel space has none."""
        return any(True for _ in self.modules[name].parameters())


def open_context(config: Config) -> Context:
    """Open the data and build the untrained networks of a run, without writing files.

    Raises:
        UserError: an option is unknown, sizes do not fit, or the data cannot be read.
    """
    system = get_system(config)
    get_protocol(config.evaluation.protocol)
    check_option("sampler.name", config.sampler.name, SAMPLERS)
    check_option("autoencoder.standardise", config.autoencoder.standardise, ("scalar", "channel"))
    options = {key: value for key, value in asdict(config.trainer).items() if key != "threads"}
    machine = resolve_machine(**options)
    configure_process(machine, config.trainer.threads)
    source = build_source(config.data)
    check_channels(config, source.channels)
    check_image_size(source.image_size)
    skipped = describe_source(source).get("skipped", [])
    if skipped:
        log.info(f"note: {len(skipped)} pictures cannot be read and are left out: {name_some(skipped)}")
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
        torch.get_rng_state(),
        list_counts(config.trainer.threads, machine.device, read_ranks().size),
    )
