"""From configuration to objects: the only module that knows both, and the list of systems."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from disdiff.baselines.conditional import ConditionalDiffusion, ConditionalNetworks
from disdiff.baselines.encoders import BernoulliEncoder, TrunkEncoder, build_trunk
from disdiff.baselines.prior import check_prior
from disdiff.baselines.tasks import ConditionalTask, VAETask
from disdiff.baselines.vae import VAE, ConvDecoder, VAENetworks
from disdiff.config import AutoencoderConfig, Config, DataConfig, WeightsConfig
from disdiff.factor_encoder import FactorEncoder
from disdiff.gradient_decoder import GradientDecoder
from disdiff.model import PDAE, DisDiff, FactorNetworks, ImageModel
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


def build_encoder(config: Config, latent_space: LatentSpace, image_size: int) -> nn.Module:
    """An untrained encoder of the configured trunk and posterior.

    Raises:
        UserError: an option is unknown or sizes do not fit.
    """
    factors, options = config.factors, config.factors.encoder
    channels, size, _ = latent_space.latent_shape(image_size)
    inputs = {"image": (config.autoencoder.network.in_channels, image_size), "z": (channels, size)}
    if "latent_diffusion" in get_system(config).stages:  # a frozen denoiser has something to tell
        unet = config.latent_diffusion.unet
        inputs["features"] = (unet.channels * unet.channel_mult[-1], size >> (len(unet.channel_mult) - 1))
    reads = choose("factors.encoder.input", options.input, inputs)
    if options.posterior == "bernoulli":
        values = replace(config, factors=replace(factors, encoder=replace(options, posterior="none")))
        return BernoulliEncoder(build_encoder(values, latent_space, image_size))
    if config.trunk.kind == "disdiff":
        return FactorEncoder(options, *reads, factors.num_units, factors.unit_dim)
    gaussian = choose("factors.encoder.posterior", options.posterior, {"none": False, "gaussian": True})
    return TrunkEncoder(*build_trunk(config.trunk, *reads), factors.num_units, factors.unit_dim, gaussian)


def build_factor_networks(config: Config, latent_space: LatentSpace, image_size: int) -> FactorNetworks:
    """Untrained factor encoder and gradient decoder.

    Raises:
        UserError: an option is unknown or sizes do not fit.
    """
    factors = config.factors
    encoder = build_encoder(config, latent_space, image_size)
    channels = latent_space.latent_channels
    decoder = GradientDecoder(
        factors.decoder, config.latent_diffusion.unet, factors.num_units, factors.unit_dim, channels
    )
    return FactorNetworks(encoder, decoder)


def build_disdiff(config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int) -> DisDiff:
    """A DisDiff, or PDAE, with untrained factor networks on the given first two stages."""
    factors = build_factor_networks(config, latent_space, image_size)
    schedule = Schedule(config.latent_diffusion.schedule)
    kind = PDAE if config.system == "pdae" else DisDiff
    return kind(latent_space, denoiser, schedule, factors, config.factors.encoder.input)


def build_conditional(
    config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int
) -> ConditionalDiffusion:
    """An untrained EncDiff, Diff-AE or InfoDiffusion; `denoiser`, the unconditional one, has no part in it.

    Raises:
        UserError: an option is unknown, sizes do not fit, or the prior cannot be trained.
    """
    check_prior(config.prior, config.factors.encoder.posterior)
    choose("factors.encoder.start", config.factors.encoder.start, {"random": None})
    encoder = build_encoder(config, latent_space, image_size)
    unet = config.latent_diffusion.unet
    networks = ConditionalNetworks(encoder, config.conditional, unet, latent_space.latent_channels)
    schedule = Schedule(config.latent_diffusion.schedule)
    return ConditionalDiffusion(latent_space, schedule, networks, config.factors.encoder.input)


def build_vae(config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int) -> VAE:
    """An untrained beta-VAE or InfoVAE in pixel space, whatever the shared stages are.

    Raises:
        UserError: an option is unknown, sizes do not fit, or the prior cannot be trained.
    """
    check_prior(config.prior, config.factors.encoder.posterior)
    choose("factors.encoder.input", config.factors.encoder.input, {"image": None})
    bernoulli = choose("vae.likelihood", config.vae.likelihood, {"bernoulli": True, "gaussian": False})
    channels = config.autoencoder.network.in_channels
    pixels = LatentSpace(IdentityAutoencoder(channels))
    encoder = build_encoder(config, pixels, image_size)
    numbers = config.factors.num_units * config.factors.unit_dim
    decoder = ConvDecoder(numbers, config.vae.channels, channels, image_size)
    return VAE(pixels, VAENetworks(encoder, decoder), bernoulli)


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


def build_perceptual(config: WeightsConfig) -> nn.Module:
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


def build_disdiff_task(config: Config, model: DisDiff, device: str) -> StageTask:
    """The task of stage 3 of DisDiff and PDAE."""
    section = config.factors
    return DisDiffTask(model, section.loss, section.train, resolve_budget(section.train, device), config.seed)


def build_conditional_task(config: Config, model: ConditionalDiffusion, device: str) -> StageTask:
    """The task of EncDiff, Diff-AE and InfoDiffusion."""
    train = config.factors.train
    budget = resolve_budget(train, device)
    return ConditionalTask(model, config.conditional.norm, config.prior, train, budget, config.seed)


def build_vae_task(config: Config, model: VAE, device: str) -> StageTask:
    """The task of beta-VAE and InfoVAE."""
    train = config.factors.train
    return VAETask(model, config.prior, train, resolve_budget(train, device), config.seed)


@dataclass(frozen=True)
class System:
    """What the pipeline knows of a system.

    Attributes:
        stages: their names, in order.
        build_model: (configuration, latent space, untrained denoiser, image size) to the untrained model;
            None for a system that is a shared stage.
        build_task: (configuration, model, device) to the task of the stage `factors`.
        sections: of the configuration beside `factors` on which that stage depends, dotted.
        unread: keys of `factors` on which it does not.
    """

    stages: tuple[str, ...]
    build_model: Callable[[Config, LatentSpace, UNet, int], ImageModel] | None = None
    build_task: Callable[[Config, ImageModel, str], StageTask] | None = None
    sections: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


ON_LATENT_DIFFUSION = ("autoencoder", "latent_diffusion", "factors")
CONDITIONAL = System(
    ("autoencoder", "factors"),
    build_conditional,
    build_conditional_task,
    ("trunk", "conditional", "prior", "latent_diffusion.unet", "latent_diffusion.schedule"),
    ("decoder", "loss"),
)
VARIATIONAL = System(("factors",), build_vae, build_vae_task, ("trunk", "vae", "prior"), ("decoder", "loss"))
SYSTEMS = {
    "autoencoder": System(("autoencoder",)),
    "latent_diffusion": System(("autoencoder", "latent_diffusion")),
    "disdiff": System(ON_LATENT_DIFFUSION, build_disdiff, build_disdiff_task, ("trunk",)),
    "pdae": System(ON_LATENT_DIFFUSION, build_disdiff, build_disdiff_task, ("trunk",)),
    "encdiff": CONDITIONAL,
    "diffae": CONDITIONAL,
    "infodiffusion": CONDITIONAL,
    "beta_vae": VARIATIONAL,
    "infovae": VARIATIONAL,
}


def get_system(config: Config) -> System:
    """The system of a configuration.

    Raises:
        UserError: there is none of that name.
    """
    return choose("system", config.system, SYSTEMS)


def build_model(
    config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int
) -> ImageModel | None:
    """The untrained model of a configuration on the given shared stages; None where these are all of it."""
    build = get_system(config).build_model
    return None if build is None else build(config, latent_space, denoiser, image_size)
