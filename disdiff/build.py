"""Build models, tasks and data sources from a configuration, and list the systems.

No other module turns configurations into objects. Tasks are imported inside the functions that build them,
because they import Lightning, which takes longer than all other imports together.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from tqdm import tqdm

from disdiff.baselines.anchors import Anchors
from disdiff.baselines.conditional import ConditionalDiffusion, ConditionalNetworks
from disdiff.baselines.encoders import BernoulliEncoder, TrunkEncoder, build_trunk
from disdiff.baselines.latent_dpm import LatentDPM
from disdiff.baselines.prior import check_prior
from disdiff.baselines.total_correlation import BetaTCVAETerm, FactorVAETerm
from disdiff.baselines.vae import VAE, ConvDecoder, VAENetworks
from disdiff.config.schema import AutoencoderConfig, Config, DataConfig, WeightsConfig
from disdiff.config.sizes import check_sizes
from disdiff.config.system import System
from disdiff.method.encoder_input import EncoderInput, FeatureInput, ImageInput, LatentInput
from disdiff.method.factor_encoder import FactorEncoder, FactorEncoderConfig
from disdiff.method.gradient_decoder import GradientDecoder
from disdiff.method.losses import check_whitened
from disdiff.method.model import PDAE, CodeNetworks, DisDiff, ImageModel
from ldm.autoencoder.identity import IdentityAutoencoder
from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.latent_space import Autoencoder, LatentSpace
from ldm.autoencoder.losses import check_regulariser
from ldm.autoencoder.noise import NoiseAutoencoder
from ldm.autoencoder.vq import VQAutoencoder
from ldm.data.arrays import show_on
from ldm.data.catalog import open_data
from ldm.data.source import ImageSource
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError, check_option, look_up
from ldm.nn.unet import UNet
from ldm.training.optimizer import resolve_settings

if TYPE_CHECKING:
    from ldm.training.stage_task import StageTask


def build_source(config: DataConfig) -> ImageSource:
    """The images of a data set: its files, or its procedural stand-in.

    Raises:
        UserError: the data set is unknown, an option does not fit it, a file is damaged, or a required file
            is missing.
    """
    with tqdm(desc=f"opening {config.name}", unit="image", delay=2, leave=False) as bar:
        return open_data(config, show_on(bar))


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """An untrained first stage; UserError if its kind or an option of this kind is unknown."""
    kinds: dict[str, Callable[[], Autoencoder]] = {
        "vq": lambda: VQAutoencoder(config.network, config.codebook_size, legacy=config.legacy_codebook),
        "kl": lambda: KLAutoencoder(config.network),
        "noise": lambda: NoiseAutoencoder(config.network, config.noise_share, config.start),
        "identity": lambda: IdentityAutoencoder(config.network.in_channels),
    }
    return look_up("autoencoder.kind", config.kind, kinds)()


def build_latent_space(config: Config) -> LatentSpace:
    """An untrained first stage with its standardisation."""
    return LatentSpace(build_autoencoder(config.autoencoder))


def build_denoiser(config: Config, latent_space: LatentSpace) -> UNet:
    """An untrained denoiser of the latents."""
    return UNet(config.latent_diffusion.unet, latent_space.latent_channels)


def build_encoder(
    config: Config, latent_space: LatentSpace, image_size: int, has_features: bool = False
) -> nn.Module:
    """An untrained encoder of the configured trunk and posterior, for images of `image_size` pixels a side.

    It can read `features` if there is a frozen denoiser (`has_features`).

    Raises:
        UserError: an option is unknown or sizes do not fit.
    """
    options = config.code.encoder
    channels, size, _ = latent_space.latent_shape(image_size)
    inputs = {"image": (config.autoencoder.network.in_channels, image_size), "z": (channels, size)}
    if has_features:
        unet = config.latent_diffusion.unet
        inputs["features"] = (unet.channels * unet.channel_mult[-1], size >> (len(unet.channel_mult) - 1))
    shape = look_up("code.encoder.input", options.input, inputs)
    if options.posterior == "bernoulli":
        return BernoulliEncoder(build_trunk_encoder(config, replace(options, posterior="none"), shape))
    return build_trunk_encoder(config, options, shape)


def build_trunk_encoder(config: Config, options: FactorEncoderConfig, shape: tuple[int, int]) -> nn.Module:
    """An untrained encoder with real numbers as code, for inputs of (channels, size)."""
    code = config.code
    if config.trunk.kind == "disdiff":
        image_channels = config.autoencoder.network.in_channels
        return FactorEncoder(options, *shape, code.num_units, code.unit_dim, image_channels)
    gaussian = look_up("code.encoder.posterior", options.posterior, {"none": False, "gaussian": True})
    return TrunkEncoder(*build_trunk(config.trunk, *shape), code.num_units, code.unit_dim, gaussian)


def build_encoder_input(kind: str, latent_space: LatentSpace, denoiser: UNet) -> EncoderInput:
    """The input of the encoder: `image`, `z` or `features`; UserError if its kind is unknown."""
    kinds: dict[str, Callable[[], EncoderInput]] = {
        "image": lambda: ImageInput(latent_space),
        "z": lambda: LatentInput(latent_space),
        "features": lambda: FeatureInput(latent_space, denoiser),
    }
    return look_up("code.encoder.input", kind, kinds)()


def build_disdiff(
    config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int, kind: type[DisDiff] = DisDiff
) -> DisDiff:
    """A DisDiff or PDAE with untrained factor encoder and gradient decoder, on the given first two stages.

    Raises:
        UserError: an option is unknown, sizes do not fit, or latents are too large to be whitened.
    """
    if config.code.loss.whiten_ridge is not None:
        check_whitened(math.prod(latent_space.latent_shape(image_size)))
    check_auxiliary(config, latent_space, image_size)
    encoder = build_encoder(config, latent_space, image_size, has_features=True)
    encoder_input = build_encoder_input(config.code.encoder.input, latent_space, denoiser)
    return add_decoder(config, latent_space, denoiser, encoder, encoder_input, kind)


def check_auxiliary(config: Config, latent_space: LatentSpace, image_size: int) -> None:
    """Raise UserError if there is an auxiliary decoder, and latents are too large to be whitened for it."""
    if config.code.loss.auxiliary.weight:
        check_whitened(math.prod(latent_space.latent_shape(image_size)), "code.loss.auxiliary.weight")


def add_decoder(
    config: Config,
    latent_space: LatentSpace,
    denoiser: UNet,
    encoder: nn.Module,
    encoder_input: EncoderInput,
    kind: type[DisDiff] = DisDiff,
) -> DisDiff:
    """The model of an encoder and an untrained gradient decoder, on the given first two stages."""
    code, channels = config.code, latent_space.latent_channels
    unet, schedule = config.latent_diffusion.unet, Schedule(config.latent_diffusion.schedule)
    decoder = GradientDecoder(code.decoder, unet, code.num_units, code.unit_dim, channels)
    networks = CodeNetworks(encoder, decoder)
    return kind(latent_space, denoiser, schedule, networks, encoder_input, config.sampler.guidance)


def build_clip_disdiff(
    config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int
) -> ImageModel:
    """A CLIP-guided DisDiff with untrained heads and gradient decoder on the given first two stages.

    Raises:
        UserError: an option is unknown, or the CLIP or its prompts cannot be loaded.
    """
    from disdiff.clip.guided import ClipInput  # here, as open_clip takes seconds to import
    from disdiff.clip.heads import ClipHeads
    from disdiff.clip.prompts import anchor_axes
    from disdiff.clip.tower import load_clip

    code, options = config.code, config.code.encoder
    check_option("code.encoder.input", options.input, (ClipInput.array,))
    clip = load_clip(config.clip, config.weights.allow_download)
    text = options.start == "text" and config.clip.prompts is not None
    anchors = anchor_axes(clip.encode_text, config.clip.prompts, code.unit_dim) if text else None
    sizes = (clip.embed_dim, code.num_units, code.unit_dim)
    heads = ClipHeads(options, *sizes, clip.description.fingerprint, anchors)
    return add_decoder(config, latent_space, denoiser, heads, ClipInput(latent_space, clip))


def build_conditional(
    config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int
) -> ConditionalDiffusion:
    """An untrained EncDiff, DyGA, Diff-AE or InfoDiffusion; the unconditional `denoiser` is not used.

    Raises:
        UserError: an option is unknown, sizes do not fit, or the prior cannot be trained.
    """
    code = config.code
    check_prior(config.prior, code.encoder.posterior, code.num_units * code.unit_dim)
    check_start(config)
    check_auxiliary(config, latent_space, image_size)
    if config.conditional.anchors.shift and code.unit_dim != 1:
        raise UserError(
            f"conditional.anchors.shift needs units of one number, and code.unit_dim={code.unit_dim}; set "
            "code.unit_dim=1, or conditional.anchors.shift=0"
        )
    encoder = build_encoder(config, latent_space, image_size)
    unet = config.latent_diffusion.unet
    networks = ConditionalNetworks(encoder, config.conditional, unet, latent_space.latent_channels)
    schedule = Schedule(config.latent_diffusion.schedule)
    encoder_input = build_encoder_input(code.encoder.input, latent_space, denoiser)
    return ConditionalDiffusion(latent_space, schedule, networks, encoder_input)


def check_start(config: Config) -> None:
    """Raise UserError unless the encoder of a conditional system supports `code.encoder.start`."""
    options = config.code.encoder
    if options.start != "random" and (
        config.trunk.kind != "disdiff" or options.input != "z" or options.posterior == "bernoulli"
    ):
        raise UserError(
            f"code.encoder.start={options.start} needs trunk.kind=disdiff, code.encoder.input=z and a "
            "posterior other than bernoulli; change these, or set code.encoder.start=random"
        )


def build_vae(
    config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int, needs_gaussian: bool = False
) -> VAE:
    """An untrained VAE in pixel space; the shared stages are not used.

    Raises:
        UserError: an option is unknown, sizes do not fit, or the prior cannot be trained.
    """
    numbers = config.code.num_units * config.code.unit_dim
    check_prior(config.prior, config.code.encoder.posterior, numbers)
    if needs_gaussian:
        check_option("code.encoder.posterior", config.code.encoder.posterior, ("gaussian",))
    check_option("code.encoder.input", config.code.encoder.input, ("image",))
    check_option("code.encoder.start", config.code.encoder.start, ("random",))
    bernoulli = look_up("vae.likelihood", config.vae.likelihood, {"bernoulli": True, "gaussian": False})
    channels = config.autoencoder.network.in_channels
    pixels = LatentSpace(IdentityAutoencoder(channels))
    encoder = build_encoder(config, pixels, image_size)
    decoder = ConvDecoder(numbers, config.vae.channels, channels, image_size)
    return VAE(pixels, VAENetworks(encoder, decoder), bernoulli)


def build_autoencoder_task(config: Config, latent_space: LatentSpace, device: str) -> "StageTask":
    """The task of stage 1.

    Raises:
        UserError: LPIPS is configured but its weights are missing, or the regulariser's weight does not fit
            the kind of autoencoder.
    """
    from ldm.tasks import AutoencoderTask

    section = config.autoencoder
    check_regulariser(section.kind, section.loss.weight_regulariser)
    perceptual = None
    if section.loss.perceptual == "lpips" and section.loss.weight_perceptual:
        perceptual = build_perceptual(config.weights)
    settings = resolve_settings(section.train, config.stage_seed, device)
    return AutoencoderTask(latent_space.autoencoder, section.loss, perceptual, settings)


def build_perceptual(config: WeightsConfig) -> nn.Module:
    """LPIPS with the weight file that the configuration names or the weight search finds."""
    from ldm.autoencoder.perceptual import load_lpips  # here, as it imports torchvision's model zoo

    return load_lpips(config.vgg16, config.allow_download)


def build_latent_diffusion_task(
    config: Config, latent_space: LatentSpace, denoiser: UNet, device: str
) -> "StageTask":
    """The task of stage 2."""
    from ldm.tasks import LatentDiffusionTask

    section = config.latent_diffusion
    settings = resolve_settings(section.train, config.stage_seed, device)
    return LatentDiffusionTask(denoiser, latent_space, Schedule(section.schedule), section.loss, settings)


def build_disdiff_task(config: Config, model: DisDiff, device: str) -> "StageTask":
    """The task of stage 3 of DisDiff and PDAE."""
    from disdiff.method.tasks import DisDiffTask

    code = config.code
    return DisDiffTask(model, code.loss, code.encoder, resolve_settings(code.train, config.seed, device))


def build_conditional_task(config: Config, model: ConditionalDiffusion, device: str) -> "StageTask":
    """The task of EncDiff, DyGA, Diff-AE and InfoDiffusion."""
    from disdiff.baselines.tasks import ConditionalTask

    options, code = config.conditional, config.code
    settings = resolve_settings(code.train, config.seed, device)
    anchors = Anchors(options.anchors, code.num_units) if options.anchors.shift else None
    return ConditionalTask(model, options.norm, config.prior, code.encoder, code.loss, settings, anchors)


def build_vae_task(
    config: Config, model: VAE, device: str, build_term: Callable[[Config], nn.Module] | None = None
) -> "StageTask":
    """The task of the VAEs."""
    from disdiff.baselines.tasks import VAETask

    settings = resolve_settings(config.code.train, config.seed, device)
    term = build_term(config) if build_term else None
    return VAETask(model, config.prior, config.code.encoder, settings, term)


def build_factor_vae_term(config: Config) -> nn.Module:
    """The total-correlation term of FactorVAE."""
    return FactorVAETerm(config.factor_vae, config.code.num_units * config.code.unit_dim, config.seed)


def build_beta_tcvae_term(config: Config) -> nn.Module:
    """The decomposed KL of beta-TCVAE."""
    return BetaTCVAETerm(config.beta_tcvae)


def build_latent_dpm(config: Config, model: ImageModel) -> LatentDPM:
    """An untrained latent DPM: a diffusion model of the codes of `model`."""
    numbers = config.code.num_units * config.code.unit_dim
    return LatentDPM(config.latent_dpm, (model.num_units, numbers // model.num_units))


def build_latent_dpm_task(config: Config, latent_dpm: LatentDPM, device: str) -> "StageTask":
    """The task of the stage `latent_dpm`, which follows `code`."""
    from disdiff.baselines.tasks import LatentDPMTask

    section = config.latent_dpm
    return LatentDPMTask(latent_dpm, section.loss, resolve_settings(section.train, config.seed, device))


CONDITIONAL = System(
    ("autoencoder", "code"),
    build_conditional,
    build_conditional_task,
    (
        *("trunk", "conditional", "prior", "latent_diffusion.unet", "latent_diffusion.schedule"),
        *("code.loss.auxiliary", "code.loss.weight_correlation", "code.loss.correlation_memory"),
    ),
    ("decoder", "loss"),
)
VARIATIONAL = System(
    ("code",),
    build_vae,
    build_vae_task,
    ("trunk", "vae", "prior", "autoencoder.network.in_channels"),
    ("decoder", "loss"),
)
DISDIFF = System(
    ("autoencoder", "latent_diffusion", "code"),
    build_disdiff,
    build_disdiff_task,
    ("trunk",),
    has_gradient_fields=True,
)
GAUSSIAN_VAE = replace(VARIATIONAL, build_model=partial(build_vae, needs_gaussian=True))
FACTOR_VAE = replace(
    GAUSSIAN_VAE,
    build_task=partial(build_vae_task, build_term=build_factor_vae_term),
    sections=(*VARIATIONAL.sections, "factor_vae"),
)
BETA_TCVAE = replace(
    GAUSSIAN_VAE,
    build_task=partial(build_vae_task, build_term=build_beta_tcvae_term),
    sections=(*VARIATIONAL.sections, "beta_tcvae"),
)
SYSTEMS = {
    "autoencoder": System(("autoencoder",)),
    "latent_diffusion": System(("autoencoder", "latent_diffusion")),
    "disdiff": DISDIFF,
    "pdae": replace(DISDIFF, build_model=partial(build_disdiff, kind=PDAE)),
    "disdiff_clip": replace(DISDIFF, build_model=build_clip_disdiff, sections=("clip",)),
    "encdiff": CONDITIONAL,
    "dyga": CONDITIONAL,
    "diffae": CONDITIONAL,
    "infodiffusion": CONDITIONAL,
    "beta_vae": VARIATIONAL,
    "infovae": VARIATIONAL,
    "factor_vae": FACTOR_VAE,
    "beta_tcvae": BETA_TCVAE,
}


def get_system(config: Config) -> System:
    """The system of a configuration; UserError if there is no system of that name."""
    return look_up("system", config.system, SYSTEMS)


def list_stage_names(config: Config) -> tuple[str, ...]:
    """Stages of a configuration, in order: those of its system, then `latent_dpm` if it is enabled."""
    stages = get_system(config).stages
    return (*stages, "latent_dpm") if config.latent_dpm.enabled and "code" in stages else stages


def build_model(
    config: Config, latent_space: LatentSpace, denoiser: UNet, image_size: int
) -> ImageModel | None:
    """The untrained model on the given shared stages; None if the system consists of shared stages only.

    Raises:
        UserError: parts of the configuration do not fit together.
    """
    system = get_system(config)
    if "autoencoder" in system.stages:
        check_sizes(config, image_size, system.denoises)
    if config.sampler.guidance != 1 and not system.has_gradient_fields:
        raise UserError(
            f"sampler.guidance={config.sampler.guidance:g} scales gradient fields, but {config.system} has "
            "no gradient fields; set sampler.guidance=1"
        )
    if system.build_model is None:
        return None
    return system.build_model(system.show_declared(config, "code"), latent_space, denoiser, image_size)
