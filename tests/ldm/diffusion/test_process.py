import pytest
import torch

from ldm.diffusion.process import (
    posterior,
    predict_eps,
    predict_z0,
    q_sample,
    sample_noise,
    sample_noise_shape,
)
from ldm.diffusion.schedule import gather

STEPS = torch.tensor([0, 1, 20, 300, 700, 999])


def draw(generator, dtype=torch.float64):
    return torch.randn(len(STEPS), 2, 4, 4, generator=generator, dtype=dtype)


def test_q_sample_has_the_marginal_moments(schedule, generator):
    z_0 = torch.full((len(STEPS), 40_000), 0.8)
    z_t = q_sample(schedule, z_0, STEPS, sample_noise(z_0, generator))
    torch.testing.assert_close(z_t.mean(1), 0.8 * schedule.alpha_bar[STEPS].sqrt(), atol=0.02, rtol=0)
    torch.testing.assert_close(z_t.std(1), (1 - schedule.alpha_bar[STEPS]).sqrt(), atol=0, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_invert_q_sample(schedule, generator, dtype):
    z_0, eps = draw(generator, dtype), draw(generator, dtype)
    z_t = q_sample(schedule, z_0, STEPS, eps)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert z_t.dtype == dtype
    torch.testing.assert_close(predict_z0(schedule, z_t, STEPS, eps), z_0, atol=tolerance, rtol=0)
    torch.testing.assert_close(predict_eps(schedule, z_t, STEPS, z_0), eps, atol=tolerance, rtol=0)


def test_posterior_is_bayes_rule(schedule, generator):
    """The product of q(z_{t-1} | z_0) and q(z_t | z_{t-1}), completed to a square."""
    z_0, z_t, t = draw(generator)[1:], draw(generator)[1:], STEPS[1:]
    alpha, beta = gather(schedule.alpha, t, z_0), gather(schedule.beta, t, z_0)
    alpha_bar_prev = gather(schedule.alpha_bar_prev, t, z_0)
    precision = alpha / beta + 1 / (1 - alpha_bar_prev)
    mean = (alpha.sqrt() / beta * z_t + alpha_bar_prev.sqrt() / (1 - alpha_bar_prev) * z_0) / precision
    result = posterior(schedule, z_0, z_t, t)
    torch.testing.assert_close(result.mean, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.variance, 1 / precision, atol=0, rtol=1e-4)


def test_posterior_of_the_first_step_is_the_clean_latent(schedule, generator):
    z_0, z_t = draw(generator), draw(generator)
    result = posterior(schedule, z_0, z_t, torch.zeros_like(STEPS))
    torch.testing.assert_close(result.mean, z_0, atol=1e-6, rtol=0)
    assert not result.variance.any()


def test_each_sample_has_its_own_step(schedule, generator):
    z_0, eps = draw(generator), draw(generator)
    together = q_sample(schedule, z_0, STEPS, eps)
    for i in range(len(STEPS)):
        alone = q_sample(schedule, z_0[i : i + 1], STEPS[i : i + 1], eps[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


def test_noise_depends_on_the_generator_alone(generator):
    like = torch.zeros(3, 5, dtype=torch.float64)
    noise = sample_noise(like, generator)
    assert noise.shape == like.shape and noise.dtype == like.dtype
    assert torch.equal(noise, sample_noise(like, torch.Generator().manual_seed(0)))
    assert not torch.equal(noise, sample_noise(like, generator))
    assert sample_noise_shape([2, 3], generator).shape == (2, 3)
    assert sample_noise(like.to("meta"), generator).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_serves_a_gpu(schedule):
    on_cpu, on_gpu = (
        sample_noise_shape((6, 3), torch.Generator().manual_seed(0), device) for device in ("cpu", "cuda")
    )
    assert torch.equal(on_cpu, on_gpu.cpu())
    z_t = q_sample(schedule.cuda(), on_gpu, STEPS.cuda(), on_gpu)
    torch.testing.assert_close(z_t.cpu(), q_sample(schedule.cpu(), on_cpu, STEPS, on_cpu))
