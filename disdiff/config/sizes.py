"""Check that networks fit the images, and that there are enough images.

Every level of a network halves the resolution, so the image size limits the number of levels.
"""

from disdiff.config.schema import Config
from disdiff.method.model import DiffusionModel, ImageModel
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.reduced import LEAST_SIZE
from ldm.errors import UserError

LEAST_IMAGES = 2  # one image gives a single code, which no metric can score


def check_sizes(config: Config, image_size: int, denoises: bool) -> None:
    """Raise UserError if networks have more levels than images or their latents can be halved.

    `image_size` is the side of the data set's images in pixels; `denoises` tells whether the system has a
    U-Net on the latents.
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
            f"of {image_size} pixels through autoencoder.network) allow at most "
            f"{most}; remove levels, change data.image_size, or give autoencoder.network.channel_mult fewer "
            "levels"
        )


def check_image_size(image_size: int) -> None:
    """Raise UserError if images are too small to be scored."""
    if image_size < LEAST_SIZE:
        raise UserError(
            f"images of {image_size} pixels are too small: SSIM, by which reconstructions are scored, needs "
            f"{LEAST_SIZE}; choose a larger data.image_size"
        )


def check_channels(config: Config, channels: int) -> None:
    """Raise UserError if the networks are configured for images of other channels than those of the data."""
    reads = config.autoencoder.network.in_channels
    if reads != channels:
        raise UserError(
            f"autoencoder.network.in_channels={reads} does not fit {config.data.name}, whose images have "
            f"{channels} channels; set it to {channels}"
        )


def reduce_size(network: NetworkConfig, image_size: int) -> int:
    """Side of the latents of images whose side is `image_size` pixels; UserError if it is no whole number."""
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
    """Raise UserError if a PatchGAN discriminator has so many layers that its output is empty.

    After the strided layers, each of two 4x4 convolutions reduces the side by one pixel.
    """
    most = max((image_size // 3).bit_length() - 1, 0)
    if num_layers > most:
        raise UserError(
            f"autoencoder.loss.discriminator_layers={num_layers} is too many for images of {image_size} "
            f"pixels; choose at most {most}, a larger data.image_size, or autoencoder.loss.weight_gan=0"
        )


def check_images(config: Config, needed: int, num_train: int, num_eval: int) -> None:
    """Raise UserError if there are too few images to train (`needed`) or to evaluate a code."""
    if num_train < needed:
        start, fewer = "", "train system=autoencoder or system=latent_diffusion, which need fewer"
        if needed > LEAST_IMAGES:
            start = f" for code.encoder.start={config.code.encoder.start}"
            fewer = f"set code.encoder.start=random, which needs {LEAST_IMAGES}"
        raise UserError(
            f"{config.system} needs at least {needed} training images{start}, but there are {num_train}; add "
            f"images (data.root, data.num_train), or {fewer}"
        )
    if num_eval < LEAST_IMAGES:
        raise UserError(
            f"{config.system} needs at least {LEAST_IMAGES} evaluation images, but there are {num_eval}; "
            "raise evaluation.num_images, or add images"
        )


def check_probe(config: Config, num_images: int, num_eval: int) -> None:
    """Raise UserError if all images with factors are evaluation images: the probe is trained on others."""
    if config.evaluation.num_pairs and num_eval >= num_images:
        raise UserError(
            f"evaluation.num_images={config.evaluation.num_images} takes all {num_images} images, and none "
            f"is left for the probe that judges edits; set it to {max(num_images * 2 // 3, 1)}, or skip the "
            "edits with evaluation.num_pairs=0"
        )


def check_sampler(config: Config, model: ImageModel | None) -> None:
    """Raise UserError if a model that samples takes more steps than the noise schedule has."""
    steps, most = config.sampler.num_steps, config.latent_diffusion.schedule.num_steps
    if isinstance(model, DiffusionModel) and steps > most:
        raise UserError(
            f"sampler.num_steps={steps} is more than the {most} steps of "
            "latent_diffusion.schedule.num_steps; lower it"
        )
