"""The frozen model's error over t, and the distance of its samples to the data."""

import pytest
import torch

from disdiff.evaluation.frozen_model import compute_principal_distance, compute_z0_error
from ldm.diffusion.schedule import Schedule, ScheduleConfig

SCHEDULE = Schedule(ScheduleConfig())


@pytest.fixture
def z_0():
    return torch.randn(512, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_best_predictor_of_normal_latents_leaves_their_posterior_variance(z_0):
    """For z_0 ~ N(0, 1), E[z_0 | z_t] = sqrt(alpha_bar) z_t, whose error is 1 - alpha_bar."""

    def predict(z_t, t):
        signal = SCHEDULE.alpha_bar[t].sqrt().view(-1, 1, 1, 1)
        return (z_t - signal * signal * z_t) / (1 - signal**2).sqrt()

    errors = compute_z0_error(predict, SCHEDULE, z_0, torch.Generator().manual_seed(1))
    assert list(errors) == list(range(50, 1000, 100))
    for step, error in errors.items():
        assert error == pytest.approx(1 - float(SCHEDULE.alpha_bar[step]), rel=0.05)


def test_the_distance_to_equal_images_is_zero_and_grows_with_a_shift():
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(2)) - 0.5
    brighter = [compute_principal_distance(images + amount, images) for amount in (0.0, 0.1, 0.2)]
    assert brighter[0] == pytest.approx(0, abs=1e-6) and brighter[0] < brighter[1] < brighter[2]
    assert brighter[2] == pytest.approx(4 * brighter[1], rel=0.01)  # the squared distance of the means
