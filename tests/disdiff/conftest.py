"""A data set of coloured halves with two factors, one of noise with pipelines on it, and a random model that
is smooth enough to invert.
"""

from dataclasses import dataclass

import pytest
import torch

from disdiff.config.schema import load_config
from disdiff.runs import context as context_module
from disdiff.runs.context import open_context
from ldm.data.factor_space import FactorSpace
from ldm.diffusion.schedule import Schedule, ScheduleConfig


@dataclass
class TinySource:
    """A data set of images 16x16 that goes through its combinations of factors `repeats` times."""

    name: str
    identity: str
    factor_space: FactorSpace
    repeats: int = 1
    procedural: bool = True
    image_size: int = 16
    channels: int = 3

    def __len__(self):
        return self.repeats * len(self.factor_space)

    def factors(self, index):
        return self.factor_space.factors(index % len(self.factor_space))


@dataclass
class Halves(TinySource):
    """`brightness` (4 values) of the left half, `scale` (3 values) in the right half's blue."""

    name: str = "halves"
    identity: str = "halves-1"
    factor_space: FactorSpace = FactorSpace(("brightness", "scale"), (4, 3))
    repeats: int = 20

    def images(self, index):
        factors = self.factors(index)
        images = torch.zeros(len(index), 3, 16, 16, dtype=torch.uint8)
        images[:, :, :, :8] = (80 * factors[:, 0]).to(torch.uint8)[:, None, None, None]
        images[:, 2, :, 8:] = (120 * factors[:, 1]).to(torch.uint8)[:, None, None]
        return images


@dataclass
class Noise(TinySource):
    """48 images of noise that knows its number."""

    name: str = "noise"
    identity: str = "noise-1"
    factor_space: FactorSpace = FactorSpace(("a", "b"), (6, 8))

    def images(self, index):
        everything = torch.randint(0, 256, (48, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        return everything[index].to(torch.uint8)


TINY = [
    "preset=smoke",
    "stages.pretrained=false",
    "trainer.device=cpu",
    "data.num_train=24",
    "evaluation.num_images=24",
    "autoencoder.network={patch: 1, channels: 4, channel_mult: [1, 2], num_groups: 2}",
    "latent_diffusion.unet={channels: 8, channel_mult: [1, 2], num_groups: 4}",
    *(f"{stage}.train.batch_size=8" for stage in ("autoencoder", "latent_diffusion", "code")),
]


@pytest.fixture
def make_noise():
    """The class of the data set of noise."""
    return Noise


@pytest.fixture
def said(caplog):
    """What was logged since the last context was opened."""
    caplog.set_level("INFO", "disdiff")
    caplog.set_level("INFO", "ldm")
    return lambda: "\n".join(caplog.messages).splitlines()


@pytest.fixture
def build_on_noise(tmp_path, monkeypatch, caplog):
    """Return a function that opens the context of a run on noise, without scores and pictures at its end.

    Stages train on `images` images each.
    """
    caplog.set_level("INFO", "disdiff")
    caplog.set_level("INFO", "ldm")
    monkeypatch.setattr("disdiff.runs.results.write_results", lambda *_: None)

    def build(file, *overrides, images=32, source=None):
        monkeypatch.setattr(context_module, "build_source", lambda config: source or Noise())
        lengths = [f"{stage}.train.images={images}" for stage in ("autoencoder", "latent_diffusion", "code")]
        caplog.clear()
        return open_context(load_config([file], [*TINY, *lengths, f"run.root={tmp_path}", *overrides]))

    return build


@pytest.fixture
def model(build_tiny_disdiff):
    """3 units of 2 numbers in pixel space, 40 diffusion steps, gradient fields that are not zero."""
    model = build_tiny_disdiff("pixel", reads="image", fields="random")
    model.schedule = Schedule(ScheduleConfig(num_steps=40, beta_start=0.01, beta_end=0.2))
    for decoder in (model.denoiser.decoder, model.networks.decoder.decoder):
        decoder.out_conv.weight.data *= 0.1
    return model.eval().requires_grad_(False)


@pytest.fixture
def halves():
    return Halves()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
