"""Tiny builders that several test folders share."""

import logging
import os

# one thread, which a busy machine slows least; set before PyTorch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from disdiff.build import build_denoiser, build_encoder_input, build_latent_space, build_model
from disdiff.config.schema import CONFIGS, load_config
from disdiff.method.factor_encoder import FactorEncoder, FactorEncoderConfig
from disdiff.method.gradient_decoder import GradientDecoder, GradientDecoderConfig
from disdiff.method.model import CodeNetworks, DisDiff
from ldm.autoencoder.identity import IdentityAutoencoder
from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.latent_space import LatentSpace
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.procedural import ProceduralShapes3D
from ldm.diffusion.schedule import Schedule, ScheduleConfig
from ldm.nn.unet import UNet, UNetConfig


@pytest.fixture
def tiny_unet():
    """A U-Net of two levels for maps of 8x8."""
    return UNetConfig(
        channels=8, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[1], num_heads=2, num_groups=4
    )


@pytest.fixture
def randomise():
    """Return a function that gives a module random parameters, the zero-initialised ones included."""

    def apply(module):
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in module.parameters():
                fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 9
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
        return module

    return apply


@pytest.fixture
def build_tiny_disdiff(tiny_unet, randomise):
    """Return a function that builds a DisDiff of images 16x16, its first two stages random but fixed.

    In latent space z is (4, 8, 8), in pixel space (3, 16, 16).
    """

    def build(
        space="latent",
        reads="z",
        num_units=3,
        unit_dim=2,
        fields="zero",
        unit_embedding="orthogonal",
        **encoder,
    ):
        torch.manual_seed(0)
        network = NetworkConfig(
            channels=4, channel_mult=[1, 2], num_res_blocks=1, z_channels=4, attention=False, num_groups=2
        )
        autoencoder = KLAutoencoder(network) if space == "latent" else IdentityAutoencoder(3)
        latent_space = LatentSpace(autoencoder)
        channels, size, _ = latent_space.latent_shape(16)
        denoiser = randomise(UNet(tiny_unet, channels))
        options = FactorEncoderConfig(**{"input": reads, "channels": 8, "norm": "group", **encoder})
        shape = (3, 16) if reads == "image" else (channels, size)
        decoder = GradientDecoder(
            GradientDecoderConfig(unit_embedding=unit_embedding), tiny_unet, num_units, unit_dim, channels
        )
        networks = CodeNetworks(FactorEncoder(options, *shape, num_units, unit_dim), decoder)
        if fields == "random":
            randomise(networks.decoder.decoder)
        encoder_input = build_encoder_input(reads, latent_space, denoiser)
        return DisDiff(latent_space, denoiser, Schedule(ScheduleConfig()), networks, encoder_input)

    return build


@pytest.fixture
def tiny_system():
    """Overrides that make every network of a configuration tiny, for latents 8x8."""
    return [
        *("preset=smoke", "data.procedural=always", "trunk.channels=8", "stages.pretrained=false"),
        "code.encoder={channels: 8, hidden: 0}",
        "autoencoder.network={patch: 1, channels: 4, channel_mult: [1, 2, 2, 2], num_groups: 2}",
        "latent_diffusion.unet={channels: 8, channel_mult: [1, 2], num_groups: 4}",
    ]


@pytest.fixture
def build_tiny_system(tiny_system, randomise):
    """Return a function that gives a system's configuration, its untrained first stages by name, and the
    model on them, of images 64x64 and latents 8x8; what its own stage trains is random.
    """

    def build(system, *overrides):
        config = load_config([CONFIGS / system / "shapes3d.yaml"], [*tiny_system, *overrides])
        torch.manual_seed(0)
        space = build_latent_space(config)
        denoiser = build_denoiser(config, space)
        model = build_model(config, space, denoiser, 64)
        randomise(model.networks)
        return config, {"autoencoder": space, "latent_diffusion": denoiser}, model

    return build


@pytest.fixture
def linear_schedule():
    """The schedule of DDPM, Diff-AE and PDAE: betas linear from 1e-4 to 2e-2."""
    return Schedule(replace(ScheduleConfig(), kind="linear", beta_start=1e-4, beta_end=2e-2))


@pytest.fixture
def noise_images(monkeypatch):
    """Procedural Shapes3D whose images are noise, for speed."""
    noise = torch.rand(480, 4, 64, 64, generator=torch.Generator().manual_seed(0)) / 4
    monkeypatch.setattr(ProceduralShapes3D, "maps", lambda self, geometry: noise[geometry])


@pytest.fixture
def no_file_larger_than():
    """Within `with no_file_larger_than(size)` writing beyond it raises OSError, as on a full disk."""

    @contextmanager
    def limit(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(autouse=True)
def restore_logs():
    """A command that is called within a test leaves the log to the next test as it was."""
    loggers = [logging.getLogger(name) for name in ("ldm", "disdiff")]
    kept = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, kept, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
