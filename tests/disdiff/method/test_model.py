import pytest
import torch

from disdiff.method.encoder_input import ImageInput
from disdiff.method.model import sampling_coefficient, shift_eps, training_coefficient
from ldm.autoencoder.latent_space import LatentSpace
from ldm.autoencoder.networks import NetworkConfig
from ldm.autoencoder.vq import VQAutoencoder
from ldm.diffusion.schedule import Schedule, ScheduleConfig


def inputs(model, channels=4, size=8):
    generator = torch.Generator().manual_seed(3)
    z_t = torch.randn(2, channels, size, size, generator=generator)
    return z_t, torch.tensor([40, 600]), torch.randn(2, model.num_units, 2, generator=generator)


def test_the_ratio_of_the_two_coefficients_on_the_released_schedule():
    schedule = Schedule(ScheduleConfig())
    ratio = training_coefficient(schedule) / sampling_coefficient(schedule)
    table = {
        0: 0,
        1: 0.499,
        2: 0.665,
        5: 0.831,
        10: 0.907,
        20: 0.950,
        50: 0.978,
        100: 0.988,
        500: 0.995,
        999: 0.992,
    }
    assert {t: round(ratio[t].item(), 3) for t in table} == table
    assert ratio[20:].min() > 0.95  # the two differ by less than 5 % from there on


def test_the_training_coefficient_on_pdaes_schedule(linear_schedule):
    table = {
        0: 0.0, 10: -0.0405, 50: -0.1671, 100: -0.3177, 200: -0.5804,
        300: -0.7730, 500: -0.9547, 700: -0.9894, 900: -0.9908, 999: -0.9899,
    }  # fmt: skip
    k = training_coefficient(linear_schedule)
    assert {t: round(k[t].item(), 4) for t in table} == table


def test_the_training_coefficient_is_the_papers_times_the_posterior_variance(linear_schedule):
    """The paper: sqrt(alpha) sqrt(1 - alpha_bar) / beta * sigma_t, sigma_t the posterior variance."""
    s = linear_schedule
    paper = s.alpha.sqrt() * s.noise_variance.sqrt() / s.beta * s.posterior_variance
    torch.testing.assert_close(training_coefficient(s), -paper, rtol=1e-3, atol=0)


def test_the_sampling_coefficient_is_the_noise_level(linear_schedule):
    torch.testing.assert_close(sampling_coefficient(linear_schedule) ** 2, 1 - linear_schedule.alpha_bar)
    assert (sampling_coefficient(linear_schedule) < 0).all()


def test_shifting_takes_each_images_own_coefficient():
    coefficient = torch.tensor([0.0, -0.5, -1.0])
    eps, grad = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    shifted = shift_eps(eps, coefficient, torch.tensor([2, 0, 1]), grad)
    torch.testing.assert_close(shifted, torch.stack([eps[0] - grad[0], eps[1], eps[2] - 0.5 * grad[2]]))


@pytest.mark.parametrize(("space", "shape"), [("latent", (4, 8)), ("pixel", (3, 16))])
def test_a_new_model_predicts_what_its_frozen_denoiser_predicts(build_tiny_disdiff, space, shape):
    model = build_tiny_disdiff(space)
    z_t, t, code = inputs(model, *shape)
    prediction = model.predict(z_t, t, code)
    assert torch.equal(prediction.eps_base, model.denoiser(z_t, t)) and prediction.eps_base.any()
    assert prediction.grad.shape == (2, 3, *z_t.shape[1:])
    for coefficient in (training_coefficient, sampling_coefficient):
        shifted = shift_eps(prediction.eps_base, coefficient(model.schedule), t, prediction.grad.sum(dim=1))
        assert torch.equal(shifted, prediction.eps_base)


def test_the_denoiser_gets_no_gradient_and_the_factor_networks_do(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")
    z_t, t, code = inputs(model)
    model.predict(z_t, t, code.requires_grad_()).grad.square().sum().backward()
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())
    assert all(parameter.grad is not None for parameter in model.networks.decoder.parameters())
    assert code.grad.any()


def test_predicting_some_units_is_a_part_of_predicting_all(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")
    z_t, t, code = inputs(model)
    some = model.predict(z_t, t, code[:, [2, 0]], torch.tensor([2, 0])).grad
    torch.testing.assert_close(some, model.predict(z_t, t, code).grad[:, [2, 0]], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "reads"), [("latent", "z"), ("latent", "image"), ("pixel", "image"), ("pixel", "z")]
)
def test_encoding_reads_what_is_configured(build_tiny_disdiff, space, reads):
    model = build_tiny_disdiff(space, reads)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    seen = image if reads == "image" else model.latent_space.encode(image)
    code = model.encode(image)
    assert code.shape == (2, 3, 2) and torch.equal(code, model.networks.encoder(seen))
    assert model.encoder_input.from_latent(model.latent_space.encode(image)).shape == seen.shape


def test_a_gradient_passes_through_decoding_even_of_a_quantised_space():
    network = NetworkConfig(channels=4, channel_mult=[1, 2], num_res_blocks=1, attention=False, num_groups=2)
    observe = ImageInput(LatentSpace(VQAutoencoder(network, 16))).from_latent
    z = torch.randn(2, 3, 8, 8, requires_grad=True)
    weight = torch.randn(2, 3, 16, 16)
    (gradient,) = torch.autograd.grad((weight * observe(z)).sum(), z)
    step = 0.05 * gradient / gradient.norm()
    change = (weight * (observe(z + step) - observe(z - step))).sum() / 2
    assert change.item() == pytest.approx(
        (gradient * step).sum().item(), rel=0.05
    )  # smooth: nothing was rounded
