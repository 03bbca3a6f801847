"""A data set of coloured halves with two factors, and a random model that is smooth enough to invert."""

from dataclasses import dataclass

import pytest
import torch

from ldm.data.factor_space import FactorSpace
from ldm.diffusion.schedule import Schedule, ScheduleConfig


@dataclass
class Halves:
    """Images 16x16: `brightness` (4 values) of the left half, `scale` (3 values) in the right half's blue."""

    name: str = "halves"
    procedural: bool = True
    identity: str = "halves-1"
    image_size: int = 16
    channels: int = 3
    factor_space: FactorSpace = FactorSpace(("brightness", "scale"), (4, 3))
    repeats: int = 20

    def __len__(self):
        return self.repeats * len(self.factor_space)

    def factors(self, index):
        return self.factor_space.factors(index % len(self.factor_space))

    def images(self, index):
        factors = self.factors(index)
        images = torch.zeros(len(index), 3, 16, 16, dtype=torch.uint8)
        images[:, :, :, :8] = (80 * factors[:, 0]).to(torch.uint8)[:, None, None, None]
        images[:, 2, :, 8:] = (120 * factors[:, 1]).to(torch.uint8)[:, None, None]
        return images


@pytest.fixture
def model(build_tiny_disdiff):
    """3 units of 2 numbers in pixel space, 40 diffusion steps, gradient fields that are not zero."""
    model = build_tiny_disdiff("pixel", reads="image", fields="random")
    model.schedule = Schedule(ScheduleConfig(num_steps=40, beta_start=0.01, beta_end=0.2))
    for decoder in (model.denoiser.decoder, model.factors.decoder.decoder):
        decoder.out_conv.weight.data *= 0.1
    return model.eval().requires_grad_(False)


@pytest.fixture
def halves():
    return Halves()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
