"""From configuration to objects: the only module that knows both."""

from collections.abc import Callable
from pathlib import Path

import torch

from disdiff.config import AutoencoderConfig, Config, DataConfig, WeightsConfig
from disdiff.factor_encoder import FactorEncoder
from disdiff.gradient_decoder import GradientDecoder
from disdiff.model import DisDiff, FactorNetworks
from disdiff.tasks import DisDiffTask
from ldm.autoencoder.identity import IdentityAutoencoder
from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.latent_space import Autoencoder, LatentSpace
from ldm.autoencoder.vq import VQAutoencoder
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.shapes3d import Shapes3D, find_shapes3d
from ldm.data.source import ImageSource
from ldm.diffusion.schedule import Schedule
from ldm.errors import choose
from ldm.nn.unet import UNet
from ldm.tasks import AutoencoderTask, LatentDiffusionTask
from ldm.training.optimizer import resolve_budget
from ldm.training.stage_task import StageTask

SYSTEMS = ("autoencoder", "latent_diffusion", "disdiff")


def build_source(config: DataConfig) -> ImageSource:
    """The images of a data set: its file, or its procedural stand-in.

    Raises:
        UserError: the data set is unknown, or its file is damaged, or missing where it must not be.
    """
    choose("data.name", config.name, {"shapes3d": None})
    choose("data.procedural", config.procedural, {"auto": None, "always": None, "never": None})
    absent = find_shapes3d(Path(config.root)) is None
    if config.procedural == "always" or (config.procedural == "auto" and absent):
        return ProceduralShapes3D()
    return Shapes3D(config.root)


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """An untrained first stage.

    Raises:
        UserError: its kind is unknown.
    """
    kinds: dict[str, Callable[[], Autoencoder]] = {
        "vq": lambda: VQAutoencoder(config.network, config.codebook_size, legacy=config.legacy_codebook),
        "kl": lambda: KLAutoencoder(config.network),
        "identity": lambda: IdentityAutoencoder(config.network.in_channels),
    }
    return choose("autoencoder.kind", config.kind, kinds)()


def build_latent_space(config: Config) -> LatentSpace:
    """An untrained first stage with its standardisation."""
    return LatentSpace(build_autoencoder(config.autoencoder))


def build_denoiser(config: Config, latent_space: LatentSpace) -> UNet:
    """An untrained denoiser of the latents."""
    return UNet(config.latent_diffusion.unet, latent_space.latent_channels)


def build_factor_networks(config: Config, latent_space: LatentSpace, image_size: int) -> FactorNetworks:
    """Untrained factor encoder and gradient decoder.

    Raises:
        UserError: an option is unknown or sizes do not fit.
    """
    factors = config.factors
    channels, size, _ = latent_space.latent_shape(image_size)
    inputs = {"image": (config.autoencoder.network.in_channels, image_size), "z": (channels, size)}
    reads = choose("factors.encoder.input", factors.encoder.input, inputs)
    encoder = FactorEncoder(factors.encoder, *reads, factors.num_units, factors.unit_dim)
    decoder = GradientDecoder(
        factors.decoder, config.latent_diffusion.unet, factors.num_units, factors.unit_dim, channels
    )
    return FactorNetworks(encoder, decoder)


def build_disdiff(config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int) -> DisDiff:
    """A DisDiff with untrained factor networks on the given first two stages."""
    factors = build_factor_networks(config, latent_space, image_size)
    schedule = Schedule(config.latent_diffusion.schedule)
    return DisDiff(latent_space, denoiser, schedule, factors, config.factors.encoder.input)


def build_autoencoder_task(config: Config, latent_space: LatentSpace, device: str) -> StageTask:
    """The task of stage 1.

    Raises:
        UserError: LPIPS is wanted and its weights are absent.
    """
    section = config.autoencoder
    perceptual = None
    if section.loss.perceptual == "lpips" and section.loss.weight_perceptual:
        perceptual = build_perceptual(config.weights)
    budget = resolve_budget(section.train, device)
    return AutoencoderTask(
        latent_space.autoencoder, section.loss, perceptual, section.train, budget, config.stage_seed
    )


def build_perceptual(config: WeightsConfig) -> torch.nn.Module:
    """LPIPS with the weights found by the configured rule."""
    from ldm.autoencoder.perceptual import load_lpips  # here, as it imports torchvision's model zoo

    return load_lpips(config.vgg16, config.allow_download)


def build_latent_diffusion_task(
    config: Config, latent_space: LatentSpace, denoiser: UNet, device: str
) -> StageTask:
    """The task of stage 2."""
    section = config.latent_diffusion
    budget = resolve_budget(section.train, device)
    schedule = Schedule(section.schedule)
    return LatentDiffusionTask(
        denoiser, latent_space, schedule, section.loss, section.train, budget, config.stage_seed
    )


def build_factors_task(config: Config, model: DisDiff, device: str) -> StageTask:
    """The task of stage 3."""
    section = config.factors
    return DisDiffTask(model, section.loss, section.train, resolve_budget(section.train, device), config.seed)
