import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ldm.autoencoder.kl import DiagonalGaussian, KLAutoencoder
from ldm.autoencoder.networks import NetworkConfig

SMALL = NetworkConfig(channels=8, channel_mult=[1, 2], num_res_blocks=1, z_channels=4, num_groups=4)


def build(**options):
    torch.manual_seed(0)
    return KLAutoencoder(SMALL, **options)


def test_kl_is_the_closed_form_summed_over_the_latent():
    posterior = DiagonalGaussian(torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2))
    normal = Normal(posterior.mean, (0.5 * posterior.logvar).exp())
    expected = kl_divergence(normal, Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(posterior.kl(), expected)
    standard = DiagonalGaussian(torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2))
    assert torch.equal(standard.kl(), torch.zeros(2))


def test_samples_have_the_posteriors_moments():
    posterior = DiagonalGaussian(torch.full((1, 1, 300, 300), 2.0), torch.full((1, 1, 300, 300), -1.0))
    z = posterior.sample(torch.Generator().manual_seed(0))
    assert z.mean().item() == pytest.approx(2.0, abs=0.01)
    assert z.var().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)


def test_log_variance_is_clamped_and_float32():
    moments = torch.tensor([1.0, -100.0, 2.0, 100.0]).reshape(2, 2, 1, 1).bfloat16()
    posterior = DiagonalGaussian.from_moments(moments)
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]
    assert posterior.mean.dtype == posterior.logvar.dtype == torch.float32


def test_encoding_gives_the_mean_or_a_reproducible_draw():
    model = build()
    image = torch.rand(2, 3, 8, 8)
    posterior = model.moments(image)
    draws = [model.encode(image, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(model.encode(image), posterior.mean)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    cached = model.encode_statistics(image)
    assert cached.shape == (2, 8, 4, 4)
    assert torch.equal(model.sample_raw(cached, torch.Generator().manual_seed(1)), draws[0])


def test_shapes():
    model = build()
    z_raw = model.encode(torch.zeros(2, 3, 8, 8))
    assert z_raw.shape == (2, 4, 4, 4) == (2, model.latent_channels, 4, 4)
    assert model.decode(z_raw).shape == (2, 3, 8, 8)


def test_reconstruct_trains_every_parameter_and_regularises_by_the_mean_kl():
    model = build()
    image = torch.rand(2, 3, 8, 8)
    result = model.reconstruct(image, torch.Generator().manual_seed(0))
    torch.testing.assert_close(result.regulariser, model.moments(image).kl().mean())
    (result.image_hat.square().mean() + result.regulariser).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert result.stats["kl"] == result.regulariser and not result.stats["kl"].requires_grad


def test_quantize_means_nothing_here():
    model = build()
    z_raw = torch.randn(1, 4, 4, 4)
    assert torch.equal(model.decode(z_raw), model.decode(z_raw, quantize=False))
