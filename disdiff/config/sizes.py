"""Which networks fit images of a size, where every level halves what the level above it sees, and how many
images a system needs.
"""

from disdiff.config.schema import Config
from disdiff.method.model import DiffusionModel, ImageModel
from ldm.autoencoder.networks import NetworkConfig
from ldm.errors import UserError

LEAST_IMAGES = 2  # so that codes differ


def check_sizes(config: Config, image_size: int, denoises: bool) -> None:
    """Refuse networks with more levels than images, or latents of them, can be halved.

    Args:
        config: of a system with a first stage.
        image_size: of the data set, in pixels a side.
        denoises: whether the system has a U-Net on the latents.

    Raises:
        UserError: naming the keys.
    """
    size = image_size
    if config.autoencoder.kind != "identity":
        size = reduce_size(config.autoencoder.network, image_size)
        if config.autoencoder.loss.weight_gan:
            check_discriminator(config.autoencoder.loss.discriminator_layers, image_size)
    levels, most = len(config.latent_diffusion.unet.channel_mult), (size & -size).bit_length()
    if denoises and levels > most:
        raise UserError(
            f"latent_diffusion.unet.channel_mult has {levels} levels, but latents of {size}x{size} (images "
            f"of {image_size} pixels through autoencoder.network) allow {most}; choose at most so many, "
            "another data.image_size, or fewer levels of autoencoder.network.channel_mult"
        )


def reduce_size(network: NetworkConfig, image_size: int) -> int:
    """Side of the latents of images of `image_size` pixels a side.

    Raises:
        UserError: the images are no multiple of what the first stage reduces them by.
    """
    factor = network.downsampling_factor
    if image_size % factor:
        raise UserError(
            f"images of {image_size} pixels do not fit an autoencoder that reduces {factor}-fold "
            f"(autoencoder.network.patch={network.patch}, {len(network.channel_mult)} levels of "
            f"autoencoder.network.channel_mult); choose a data.image_size that is a multiple of {factor}, or "
            "fewer levels"
        )
    return image_size // factor


def check_discriminator(num_layers: int, image_size: int) -> None:
    """Refuse a PatchGAN that leaves no patch: after its layers, two convolutions take a pixel each.

    Raises:
        UserError: naming the key.
    """
    most = max((image_size // 3).bit_length() - 1, 0)
    if num_layers > most:
        raise UserError(
            f"autoencoder.loss.discriminator_layers={num_layers} is too many for images of {image_size} "
            f"pixels; choose at most {most}, a larger data.image_size, or autoencoder.loss.weight_gan=0"
        )


def check_images(config: Config, needed: int, num_train: int, num_eval: int) -> None:
    """Refuse too few images for a code and its results.

    Args:
        config: of a system that finds a code.
        needed: images to train on, at least.
        num_train: images to train on.
        num_eval: images to evaluate on.

    Raises:
        UserError: there are fewer, naming how many are needed, and what fewer are good for.
    """
    if num_train < needed:
        start, fewer = "", "fewer do for system=autoencoder and system=latent_diffusion"
        if needed > LEAST_IMAGES:
            start = f" for code.encoder.start={config.code.encoder.start}"
            fewer = f"code.encoder.start=random needs {LEAST_IMAGES}"
        raise UserError(
            f"{config.system} needs at least {needed} images to train on{start}, here are {num_train}; add "
            f"some (data.root, data.num_train), or note that {fewer}"
        )
    if num_eval < LEAST_IMAGES:
        raise UserError(
            f"{config.system} needs at least {LEAST_IMAGES} images to evaluate on, here are {num_eval}; "
            "raise evaluation.num_images, or add images"
        )


def check_sampler(config: Config, model: ImageModel | None) -> None:
    """Refuse more sampling steps than the noise schedule has, for a model that samples.

    Raises:
        UserError: naming the keys.
    """
    steps, most = config.sampler.num_steps, config.latent_diffusion.schedule.num_steps
    if isinstance(model, DiffusionModel) and steps > most:
        raise UserError(
            f"sampler.num_steps={steps} is more than the {most} steps of "
            "latent_diffusion.schedule.num_steps; lower it"
        )
