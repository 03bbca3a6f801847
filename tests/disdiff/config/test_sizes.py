import pytest
import torch

from disdiff.build import build_autoencoder_task, build_denoiser, build_latent_space, build_model, get_system
from disdiff.config.schema import CONFIGS, PRESETS, load_config
from disdiff.config.sizes import (
    check_channels,
    check_discriminator,
    check_image_size,
    check_probe,
    reduce_size,
)
from disdiff.initialisation.eigenmaps import EigenmapCoordinates
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.source import to_float
from ldm.errors import UserError

SYSTEMS = (
    "autoencoder",
    "latent_diffusion",
    "disdiff",
    "pdae",
    "encdiff",
    "diffae",
    "infodiffusion",
    "beta_vae",
)


def build(system, image_size, *overrides):
    """A configuration of pictures, and the networks of it."""
    pictures = ["data.name=folder", f"data.image_size={image_size}"]
    config = load_config([CONFIGS / system / "shapes3d.yaml"], [*pictures, *overrides])
    space = build_latent_space(config)
    denoiser = build_denoiser(config, space)
    return config, space, denoiser, build_model(config, space, denoiser, image_size)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("image_size", [16, 32])
def test_small_pictures_go_through_every_network(system, preset, image_size):
    config, space, denoiser, model = build(
        system, image_size, f"preset={preset}", "autoencoder.loss.perceptual=none"
    )
    image = to_float(torch.randint(0, 256, (2, 3, image_size, image_size)))
    stages = get_system(config).stages
    with torch.no_grad():
        if "autoencoder" in stages:
            task = build_autoencoder_task(config, space, "cpu")
            assert space.autoencoder.reconstruct(image).image_hat.shape == image.shape
            if config.autoencoder.loss.weight_gan:
                assert task.discriminator(image).numel() >= 2
        if "latent_diffusion" in stages:
            z = space.encode(image)
            assert denoiser(z, torch.zeros(2, dtype=torch.int64)).shape == z.shape
        if model is not None:
            assert model.eval().encode(image).isfinite().all()


@pytest.mark.parametrize("image_size", [128, 256])
@pytest.mark.parametrize("preset", PRESETS)
def test_large_pictures_fit(preset, image_size):
    build("disdiff", image_size, f"preset={preset}", "code.loss.whiten_ridge=null")


def test_what_the_file_of_a_size_says_can_be_overridden():
    config = load_config([CONFIGS / "pdae" / "folder.yaml"], ["preset=paper", "data.image_size=16"])
    assert config.autoencoder.loss.discriminator_layers == 2
    assert config.latent_diffusion.unet.channel_mult == [1, 2, 4]
    overrides = ["preset=paper", "data.image_size=16", "latent_diffusion.unet.channel_mult=[1,2]"]
    assert load_config([CONFIGS / "pdae" / "folder.yaml"], overrides).latent_diffusion.unet.channel_mult == [
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("system", "image_size", "overrides", "says"),
    [
        (
            "disdiff",
            64,
            ["latent_diffusion.unet.channel_mult=[1,1,1,1,1,1]"],
            "unet.channel_mult has 6 levels.*allow at most 4",
        ),
        (
            "encdiff",
            64,
            ["latent_diffusion.unet.channel_mult=[1,2,2,2,2]"],
            "unet.channel_mult has 5 levels.*allow at most 4",
        ),
        (
            "latent_diffusion",
            32,
            ["latent_diffusion.unet.channel_mult=[1,2,2,2]"],
            "4 levels.*32 pixels.*allow at most 3",
        ),
        (
            "autoencoder",
            64,
            ["autoencoder.network.channel_mult=[1,1,1,1,1,1]"],
            "reduces 128-fold .*network.patch=4, 6",
        ),
        ("autoencoder", 64, ["autoencoder.network.patch=3"], "data.image_size that is a multiple of 6"),
        ("disdiff", 20, [], "20 pixels do not fit .*data.image_size"),
        ("disdiff", 48, [], "factor encoder needs inputs of .* got 6; choose another data.image_size"),
        (
            "beta_vae",
            48,
            [],
            "trunk.kind=vae needs inputs of 8, 16, .* got 48; choose another data.image_size",
        ),
        (
            "autoencoder",
            64,
            ["autoencoder.loss.weight_gan=0.5", "autoencoder.loss.discriminator_layers=5"],
            "discriminator_layers=5 is too many for images of 64 pixels; choose at most 4",
        ),
        (
            "disdiff",
            64,
            ["code.encoder.start=principal", "code.num_units=300"],
            "at most 256 components",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_its_key_before_training(system, image_size, overrides, says):
    with pytest.raises(UserError, match=says):
        build(system, image_size, "preset=smoke", *overrides)


@pytest.mark.parametrize(("image_size", "most"), [(16, 2), (32, 3), (64, 4), (256, 6)])
def test_the_limit_of_the_discriminator_is_that_of_its_network(image_size, most):
    from ldm.autoencoder.losses import PatchDiscriminator

    check_discriminator(most, image_size)
    assert PatchDiscriminator(3, 2, most)(torch.zeros(2, 3, image_size, image_size)).shape[-1] >= 1
    with pytest.raises(UserError):
        check_discriminator(most + 1, image_size)
    with pytest.raises(RuntimeError):
        PatchDiscriminator(3, 2, most + 1)(torch.zeros(2, 3, image_size, image_size))


def test_latents_are_smaller_by_patch_and_levels():
    assert reduce_size(NetworkConfig(patch=4, channel_mult=[1, 2]), 64) == 8


@pytest.mark.parametrize(("features", "numbers", "needed"), [(64, 10, 18), (16, 10, 17), (256, 20, 22)])
def test_a_start_is_fitted_to_as_many_images_as_it_says(features, numbers, needed):
    start = EigenmapCoordinates(features, numbers)
    assert start.images_needed == needed
    x = torch.randn(needed, features, generator=torch.Generator().manual_seed(0))
    start.fit(x)
    assert start(x).isfinite().all()


def test_some_labelled_images_are_left_for_the_probe():
    config = load_config([CONFIGS / "disdiff" / "folder.yaml"], ["evaluation.num_images=300"])
    check_probe(config, num_images=400, num_eval=300)
    with pytest.raises(UserError, match="evaluation.num_images=300 takes all 300 images.* set it to 200"):
        check_probe(config, num_images=300, num_eval=300)
    config.evaluation.num_pairs = 0
    check_probe(config, num_images=300, num_eval=300)


def test_channels_that_the_images_do_not_have_are_refused():
    config = load_config([CONFIGS / "disdiff" / "shapes3d.yaml"], ["autoencoder.network.in_channels=1"])
    check_channels(config, 1)
    with pytest.raises(UserError, match="in_channels=1 does not fit shapes3d, .* 3 channels; set it to 3"):
        check_channels(config, 3)


def test_images_that_cannot_be_scored_are_refused(build_on_noise, make_noise):
    check_image_size(11)
    tiny = make_noise()
    tiny.image_size = 10
    with pytest.raises(UserError, match="images of 10 pixels are too small"):
        build_on_noise(CONFIGS / "beta_vae" / "shapes3d.yaml", source=tiny)
