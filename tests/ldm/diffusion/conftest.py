"""A closed form to test samplers with: the exact noise predictor of normally distributed latents."""

import pytest
import torch

from ldm.diffusion.schedule import Schedule, ScheduleConfig, gather


@pytest.fixture
def schedule():
    return Schedule(ScheduleConfig())


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def gaussian_eps():
    """Return a function that builds E[eps | z_t] for latents from N(mean, std^2)."""

    def build(schedule, mean, std):
        def eps_fn(z_t, t):
            alpha_bar = gather(schedule.alpha_bar, t, z_t)
            noise_variance = gather(schedule.noise_variance, t, z_t)
            total_variance = alpha_bar * std**2 + noise_variance
            return noise_variance.sqrt() * (z_t - alpha_bar.sqrt() * mean) / total_variance

        return eps_fn

    return build
