import pytest
import torch

from disdiff.method.factor_encoder import FactorEncoder, FactorEncoderConfig
from ldm.errors import UserError


def build(size=16, num_units=3, unit_dim=2, **options):
    torch.manual_seed(0)
    config = FactorEncoderConfig(**{"channels": 8, **options})
    return FactorEncoder(config, 3, size, num_units, unit_dim)


def test_the_released_encoder_has_the_released_size():
    encoder = FactorEncoder(FactorEncoderConfig(), in_channels=3, size=64, num_units=6, unit_dim=32)
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 2) == 1.52
    kinds = [type(layer).__name__ for layer in encoder.trunk[:11]]
    convolution = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == [*convolution, *convolution, *convolution[:2], *convolution]  # one ReLU is missing
    assert [m for m in encoder.trunk if isinstance(m, torch.nn.Linear)] == []


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_power_of_two_gives_units(size, norm):
    code = build(size, norm=norm)(torch.randn(2, 3, size, size))
    assert code.shape == (2, 3, 2)


@pytest.mark.parametrize("size", [3, 12, 48, 20])
def test_other_sizes_are_refused(size):
    with pytest.raises(UserError, match=f"4, 8, 16, ... pixels a side, got {size}"):
        build(size)


def test_each_unit_has_rows_of_its_own_in_the_last_layer():
    encoder = build().eval()
    x = torch.randn(4, 3, 16, 16)
    before = encoder(x)
    with torch.no_grad():
        encoder.head.bias[2:4] += 1  # two numbers per unit: the second unit
    torch.testing.assert_close(encoder(x) - before, torch.tensor([0.0, 1, 0])[:, None].expand(4, 3, 2))


def test_without_a_posterior_the_code_is_certain():
    posterior = build().posterior(torch.randn(2, 3, 16, 16))
    assert posterior.logvar is None and not posterior.kl().any()
    assert posterior.sample(torch.Generator()) is posterior.mean


def test_a_fixed_posterior_reads_the_code_with_noise_of_that_size():
    posterior = build(posterior="fixed", code_noise=0.3).posterior(torch.randn(500, 3, 16, 16))
    noise = posterior.sample(torch.Generator().manual_seed(0)) - posterior.mean
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    assert abs(noise.mean().item()) < 0.03


def test_a_gaussian_posterior_knows_its_divergence():
    encoder = build(posterior="gaussian")
    posterior = encoder.posterior(torch.randn(5, 3, 16, 16))
    reference = torch.distributions.Normal(posterior.mean, (posterior.logvar / 2).exp())
    expected = torch.distributions.kl_divergence(reference, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), expected.sum(dim=(1, 2)))
    assert encoder.head.out_features == 12  # means and log-variances


@pytest.mark.parametrize("posterior", ["none", "fixed", "gaussian"])
def test_a_normed_code_has_mean_zero_and_variance_one_in_training(posterior):
    encoder = build(code_norm="batch", posterior=posterior)
    code = encoder(5 * torch.randn(64, 3, 16, 16) + 3)
    torch.testing.assert_close(code.mean(dim=0), torch.zeros(3, 2), rtol=0, atol=1e-4)
    torch.testing.assert_close(code.var(dim=0, unbiased=False), torch.ones(3, 2), rtol=1e-2, atol=0)
    encoder.eval()
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]))  # by running statistics: images do not mix


@pytest.mark.parametrize("option", [{"norm": "layer"}, {"posterior": "beta"}, {"code_norm": "layer"}])
def test_unknown_options_are_refused(option):
    (key, value) = next(iter(option.items()))
    with pytest.raises(UserError, match=f"code.encoder.{key}={value} is unknown"):
        build(**option)


def test_a_gaussian_code_starts_with_the_configured_noise():
    posterior = build(posterior="gaussian", initial_logvar=-6.0).posterior(torch.randn(200, 3, 16, 16))
    assert (posterior.logvar + 6).abs().mean() < 1


def test_a_gaussian_code_starts_with_little_noise():
    posterior = build(posterior="gaussian").posterior(torch.randn(200, 3, 16, 16))
    assert (0.5 * posterior.logvar).exp().mean() < 0.3


def test_the_code_starts_as_circular_coordinates_which_the_network_can_correct():
    angle = 2 * torch.pi * torch.rand(400)
    x = torch.stack([angle.cos(), angle.sin(), *torch.randn(3, 400)], dim=1) @ torch.randn(5, 48)
    encoder = build(4, start="circular", num_units=2)
    encoder.fit_start(x.view(-1, 3, 4, 4))
    code = encoder.eval()(x.view(-1, 3, 4, 4))
    assert encoder.components.is_loop.tolist() == [True, False, False, False]
    torch.testing.assert_close(code.flatten(1), encoder.components(x))
    code.sum().backward()
    assert encoder.head.weight.grad.abs().max() > 0


def test_the_code_starts_as_principal_components_with_variance_one():
    encoder = build(4, start="principal", num_units=4)
    x = torch.randn(200, 3, 4, 4) @ torch.randn(4, 4)
    encoder.fit_start(x)
    code = encoder.eval()(x).flatten(1)
    standard = (x.flatten(1) - x.flatten(1).mean(0)) / x.flatten(1).std(0)
    explained = torch.linalg.svdvals(standard)[: code.shape[1]] / len(x) ** 0.5
    torch.testing.assert_close(torch.cov(code.T), torch.eye(code.shape[1]), atol=1e-3, rtol=0)
    first = torch.linalg.lstsq(code, standard).solution.norm(dim=1)
    torch.testing.assert_close(first, explained, rtol=2e-2, atol=0)


@pytest.mark.parametrize("start", ["principal", "circular", "bilinear", "eigenmaps"])
def test_more_components_than_dimensions_are_refused(start):
    with pytest.raises(UserError, match="lower code.num_units or code.unit_dim"):
        build(4, start=start, num_units=30)


def test_the_start_keeps_its_precision_under_autocast():
    encoder = build(4, start="principal", num_units=4).eval()
    x = torch.randn(200, 3, 4, 4)
    encoder.fit_start(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = encoder(x).flatten(1)
    torch.testing.assert_close(code, encoder.components(x))
