import copy
import math

import pytest
import torch

from ldm.diffusion.schedule import CLEAN, Schedule, ScheduleConfig, gather
from ldm.errors import UserError

CONFIGS = [
    ScheduleConfig(),
    ScheduleConfig("linear", beta_start=1e-4, beta_end=2e-2),
    ScheduleConfig(num_steps=7),
]
STEPS = [0, 10, 50, 100, 200, 300, 500, 700, 900, 999]
SNR_WEIGHTS = [0.0003, 0.0040, 0.0425, 0.1299, 0.3666, 0.5805, 0.7202, 0.6039, 0.4396, 0.3636]
SHIFTS = [0.0, -0.0405, -0.1671, -0.3177, -0.5804, -0.7730, -0.9547, -0.9894, -0.9908, -0.9899]


def test_pdae_reference_values():
    """The loss weight SNR^0.1 / (1 + SNR) and the gradient's training coefficient, to the printed digits."""
    schedule = Schedule(ScheduleConfig("linear", num_steps=1000, beta_start=1e-4, beta_end=2e-2))
    weight = schedule.snr**0.1 / (1 + schedule.snr)
    shift = -schedule.alpha.sqrt() * (1 - schedule.alpha_bar_prev) / (1 - schedule.alpha_bar).sqrt()
    torch.testing.assert_close(weight[STEPS], torch.tensor(SNR_WEIGHTS), atol=5.1e-5, rtol=0)
    torch.testing.assert_close(shift[STEPS], torch.tensor(SHIFTS), atol=5.1e-5, rtol=0)
    assert weight.max().item() == pytest.approx(0.7225, abs=5.1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_sequences_are_consistent_and_monotone(config):
    schedule = Schedule(config)
    for name in (
        "beta",
        "alpha",
        "alpha_bar",
        "alpha_bar_prev",
        "noise_variance",
        "snr",
        "posterior_variance",
    ):
        values = getattr(schedule, name)
        assert (
            values.shape == (config.num_steps,) and values.dtype == torch.float32 and values.isfinite().all()
        ), name
    assert schedule.num_steps == config.num_steps
    assert (schedule.beta.diff() > 0).all()
    assert (schedule.alpha_bar.diff() < 0).all() and (schedule.snr.diff() < 0).all()
    assert schedule.alpha_bar_prev[0] == 1
    assert torch.equal(schedule.alpha_bar_prev[1:], schedule.alpha_bar[:-1])
    assert schedule.posterior_variance[0] == 0
    assert (schedule.posterior_variance[1:] > 0).all() and (schedule.posterior_variance < schedule.beta).all()


def test_scaled_linear_is_linear_in_the_root():
    beta = Schedule(ScheduleConfig()).beta
    assert beta[0].item() == pytest.approx(0.0015) and beta[-1].item() == pytest.approx(0.0155)
    steps = beta.double().sqrt().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), atol=1e-8, rtol=0)


def test_computed_in_double_precision():
    """A float32 cumulative product, or 1 - alpha_bar taken in float32, misses these by far."""
    schedule = Schedule(ScheduleConfig("linear", beta_start=1e-4, beta_end=2e-2))
    log_alpha_bar, expected = 0.0, []
    for step in range(1000):
        log_alpha_bar += math.log1p(-(1e-4 + (2e-2 - 1e-4) * step / 999))
        expected.append(-math.expm1(log_alpha_bar))
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(schedule.noise_variance.double(), expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(schedule.snr.double(), (1 - expected) / expected, rtol=1e-6, atol=0)


def test_level_agrees_with_the_buffers(schedule):
    for step in (0, 1, 500, 999):
        level = schedule.level(step)
        assert level.signal**2 == pytest.approx(schedule.alpha_bar[step].item())
        assert level.noise**2 == pytest.approx(schedule.noise_variance[step].item())
        assert level.log_snr == pytest.approx(schedule.snr[step].log().item() / 2, abs=1e-6)
    assert schedule.level(CLEAN) == (1, 0) and schedule.level(CLEAN).log_snr == math.inf
    for step in (-2, 1000):
        with pytest.raises(ValueError, match="got"):
            schedule.level(step)


def test_buffers_stay_out_of_checkpoints_and_survive_copies(schedule):
    assert not schedule.state_dict()
    twin = copy.deepcopy(schedule)
    assert torch.equal(twin.snr, schedule.snr) and twin.level(3) == schedule.level(3)
    assert schedule.to("meta").alpha_bar.device.type == "meta"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScheduleConfig("cosine"), "scaled_linear"),
        (ScheduleConfig(num_steps=0), "at least 1 step"),
        (ScheduleConfig(beta_start=0.0), "beta_start"),
        (ScheduleConfig(beta_start=0.02, beta_end=0.01), "beta_start"),
        (ScheduleConfig(beta_end=1.0), "beta_end"),
        (ScheduleConfig(beta_start=0.5, beta_end=0.5), "lower beta_end"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        Schedule(config)


def test_gather_broadcasts_each_samples_value():
    values = torch.arange(5.0)
    like = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    picked = gather(values, torch.tensor([4, 0, 2]), like)
    assert picked.shape == (3, 1, 1, 1) and picked.dtype == torch.float64
    assert picked.flatten().tolist() == [4, 0, 2]
    assert gather(values, torch.tensor([1]), torch.zeros(1)).shape == (1,)
    with pytest.raises(ValueError, match=r"\(3,\), got \(1,\)"):
        gather(values, torch.tensor([4]), like)
