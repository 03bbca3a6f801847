import math
from itertools import pairwise

import pytest
import torch

from ldm.diffusion.grid import log_snr_grid, time_grid
from ldm.diffusion.process import predict_z0, sample_noise_shape
from ldm.diffusion.sampler import (
    SamplerConfig,
    invert_ddim,
    sample,
    sample_ddim,
    sample_ddpm,
    sample_dpm_solver,
)
from ldm.diffusion.schedule import Schedule, ScheduleConfig
from ldm.errors import UserError

MEAN, STD = 0.7, 0.4


def marginal(schedule, step, mean=MEAN, std=STD):
    """Mean and standard deviation of z_t at a step when the latents are N(mean, std^2)."""
    level = schedule.level(step)
    return level.signal * mean, math.sqrt(level.signal**2 * std**2 + level.noise**2)


def latent_free_eps(z_t, t):
    """Predict noise from the step alone."""
    channels = torch.arange(z_t.shape[1], dtype=z_t.dtype)
    return torch.sin(0.01 * t[:, None] + channels)[:, :, None, None].expand_as(z_t)


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (SamplerConfig("ddpm"), 0.01),
        (SamplerConfig("ddim", 1000), 0.01),
        (SamplerConfig("ddim", 100), 0.025),
        (SamplerConfig("ddim", 1000, eta=1.0), 0.01),
        (SamplerConfig("dpm_solver", 20), 0.008),
    ],
)
def test_exact_noise_of_a_gaussian_gives_its_moments(schedule, generator, gaussian_eps, config, tolerance):
    centre, spread = marginal(schedule, 999)
    z_T = centre + spread * sample_noise_shape((4, 10_000), generator)
    z_0 = sample(config, gaussian_eps(schedule, MEAN, STD), schedule, z_T, generator)
    assert z_0.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert z_0.std().item() == pytest.approx(STD, abs=tolerance)


def errors_of(solver, schedule, gaussian_eps, std):
    """Compare a solver with the probability flow, which for a Gaussian only scales, in ever more steps."""
    eps_fn = gaussian_eps(schedule, MEAN, std)
    z_T = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    (centre_T, spread_T), (centre_0, spread_0) = (marginal(schedule, step, std=std) for step in (999, 0))
    z_first = centre_0 + spread_0 * (z_T - centre_T) / spread_T
    t = torch.zeros(9, dtype=torch.int64)
    expected = predict_z0(schedule, z_first, t, eps_fn(z_first, t))
    return [(solver(eps_fn, schedule, z_T, n) - expected).abs().max().item() for n in (20, 40, 80)]


def test_dpm_solver_is_of_second_order(schedule, gaussian_eps):
    coarse, middle, fine = errors_of(sample_dpm_solver, schedule, gaussian_eps, std=2.0)
    assert 3.6 < coarse / middle < 4.4 and 3.6 < middle / fine < 4.4


def test_ddim_is_of_first_order(schedule, gaussian_eps):
    coarse, middle, fine = errors_of(sample_ddim, schedule, gaussian_eps, std=2.0)
    assert 1.8 < coarse / middle < 2.2 and 1.8 < middle / fine < 2.2


def test_dpm_solver_extrapolates_to_the_middle_of_each_jump(schedule):
    """With z0_hat linear in log-SNR, each jump to a noisy latent uses the value half way, even or not."""
    visited = []

    def eps_fn(z_t, t):
        level = schedule.level(t[0].item())
        visited.append((level, z_t))
        return (z_t - level.signal * (1 + level.log_snr)) / level.noise

    sample_dpm_solver(eps_fn, schedule, torch.ones(1, 1, dtype=torch.float64), 30)
    for (here, z_t), (there, z_s) in list(pairwise(visited))[1:]:
        half_way = 1 + (here.log_snr + there.log_snr) / 2
        shrink = there.noise / here.noise
        expected = shrink * z_t + (there.signal - shrink * here.signal) * half_way
        torch.testing.assert_close(z_s, expected, atol=1e-10, rtol=0)


def test_dpm_solver_in_one_step_denoises(schedule, generator, gaussian_eps):
    z_T, t = sample_noise_shape((3, 2), generator), torch.full((3,), 999)
    eps_fn = gaussian_eps(schedule, MEAN, STD)
    expected = predict_z0(schedule, z_T, t, eps_fn(z_T, t))
    torch.testing.assert_close(sample_dpm_solver(eps_fn, schedule, z_T, 1), expected)
    torch.testing.assert_close(sample_ddim(eps_fn, schedule, z_T, 1), expected)


def test_full_noise_ddim_over_all_steps_is_ddpm(gaussian_eps):
    """Draw for draw: the same generator gives the same latents, hence the same distribution."""
    schedule = Schedule(ScheduleConfig(num_steps=100, beta_start=0.015, beta_end=0.12))
    eps_fn = gaussian_eps(schedule, MEAN, STD)
    z_T = torch.randn(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ddim = sample_ddim(eps_fn, schedule, z_T, 100, 1.0, torch.Generator().manual_seed(2))
    ddpm = sample_ddpm(eps_fn, schedule, z_T, torch.Generator().manual_seed(2))
    torch.testing.assert_close(ddim, ddpm, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("num_steps", [1, 10, 50])
def test_inversion_is_exact_when_noise_ignores_the_latent(schedule, generator, dtype, tolerance, num_steps):
    z_0 = sample_noise_shape((2, 3, 4, 4), generator, dtype=dtype)
    z_T = invert_ddim(latent_free_eps, schedule, z_0, num_steps)
    assert z_T.dtype == dtype and not torch.allclose(z_T, z_0)
    z_back = sample_ddim(latent_free_eps, schedule, z_T, num_steps)
    torch.testing.assert_close(z_back, z_0, atol=tolerance, rtol=0)


def test_inversion_of_a_gaussian_converges_to_its_noise(schedule, generator, gaussian_eps):
    eps_fn = gaussian_eps(schedule, MEAN, STD)
    z_0 = MEAN + STD * sample_noise_shape((4, 500), generator)
    errors = []
    for num_steps in (50, 200, 1000):
        z_T = invert_ddim(eps_fn, schedule, z_0, num_steps)
        errors.append((sample_ddim(eps_fn, schedule, z_T, num_steps) - z_0).square().mean().sqrt().item())
    assert errors[0] < 0.05 and errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3
    centre, spread = marginal(schedule, 999)
    torch.testing.assert_close((z_T - centre) / spread, (z_0 - MEAN) / STD, atol=0.1, rtol=0)


def test_samplers_ask_once_at_each_step_of_their_grid(schedule):
    asked = []

    def eps_fn(z_t, t):
        assert t.shape == (2,) and t.dtype == torch.int64 and t[0] == t[1]
        asked.append(t[0].item())
        return torch.zeros_like(z_t)

    z = torch.ones(2, 1, 2, 2)
    even, log_snr = time_grid(1000, 6).tolist(), log_snr_grid(schedule, 6).tolist()
    for call, expected in (
        (lambda: sample_ddim(eps_fn, schedule, z, 6), even),
        (lambda: invert_ddim(eps_fn, schedule, z, 6), even[::-1]),
        (lambda: sample_dpm_solver(eps_fn, schedule, z, 6), log_snr),
        (lambda: sample_ddpm(eps_fn, schedule, z, torch.Generator()), list(range(999, -1, -1))),
    ):
        asked.clear()
        call()
        assert asked == expected


def test_noise_comes_from_the_generator_alone(schedule, generator, gaussian_eps):
    z_T = sample_noise_shape((2, 8), generator)
    eps_fn = gaussian_eps(schedule, MEAN, STD)
    first, again, other = (
        sample_ddim(eps_fn, schedule, z_T, 10, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other)
    before = generator.get_state()
    sample_ddim(eps_fn, schedule, z_T, 10, 0.0, generator)
    assert torch.equal(generator.get_state(), before)


def test_gradients_are_the_callers_choice(schedule, gaussian_eps):
    z_T = torch.ones(2, 3, requires_grad=True)
    eps_fn = gaussian_eps(schedule, MEAN, STD)
    for solver in (sample_ddim, sample_dpm_solver, invert_ddim):
        (grad,) = torch.autograd.grad(solver(eps_fn, schedule, z_T, 5).sum(), z_T)
        assert (grad > 0).all()


def test_selection_by_name(schedule, generator, gaussian_eps):
    z_T, eps_fn = sample_noise_shape((2, 8), generator), gaussian_eps(schedule, MEAN, STD)
    for config, expected in (
        (SamplerConfig("ddim", 9), sample_ddim(eps_fn, schedule, z_T, 9)),
        (SamplerConfig("dpm_solver", 9), sample_dpm_solver(eps_fn, schedule, z_T, 9)),
        (SamplerConfig("ddpm", 9), sample_ddpm(eps_fn, schedule, z_T, torch.Generator().manual_seed(3))),
    ):
        z_0 = sample(config, eps_fn, schedule, z_T, torch.Generator().manual_seed(3))
        assert torch.equal(z_0, expected)


def test_new_noise_stays_real_on_a_schedule_whose_last_step_is_all_but_noise():
    schedule = Schedule(ScheduleConfig("linear", 100, 0.1, 0.5))  # alpha_bar ends at 8e-17
    z_T, config = torch.ones(2, 3, 1, 1), SamplerConfig("ddim", 2, eta=1.0)
    z_0 = sample(config, latent_free_eps, schedule, z_T, torch.Generator().manual_seed(0))
    assert not z_0.is_complex() and z_0.isfinite().all()


def test_bad_settings_are_refused(schedule, gaussian_eps):
    z_T, eps_fn = torch.zeros(1, 2), gaussian_eps(schedule, MEAN, STD)
    with pytest.raises(UserError, match="ddim, ddpm, dpm_solver"):
        sample(SamplerConfig("plms"), eps_fn, schedule, z_T)
    for eta in (-0.1, 1.5):
        with pytest.raises(UserError, match="from 0 to 1"):
            sample(SamplerConfig(eta=eta), eps_fn, schedule, z_T, torch.Generator())
    for config in (SamplerConfig(eta=0.5), SamplerConfig("ddpm")):
        with pytest.raises(ValueError, match="generator"):
            sample(config, eps_fn, schedule, z_T)
    with pytest.raises(UserError, match="from 1 to"):
        sample(SamplerConfig("dpm_solver", 2000), eps_fn, schedule, z_T)
