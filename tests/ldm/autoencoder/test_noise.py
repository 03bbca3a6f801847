import pytest
import torch

from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.latent_space import measure_latents
from ldm.autoencoder.networks import NetworkConfig
from ldm.autoencoder.noise import NoiseAutoencoder, add_noise, channel_moments, scale_penalty

SMALL = NetworkConfig(
    channels=8, channel_mult=[1], num_res_blocks=1, z_channels=2, attention=False, num_groups=4, patch=4
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_latents(scales=(1.0, 5.0, 0.01)):
    scale = torch.tensor(scales)[:, None, None]
    return torch.randn(64, 3, 16, 16, generator=generator()) * scale + 3 * scale


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_noise_is_a_share_of_each_channels_own_spread_from_none_to_the_largest(share):
    z_raw = make_latents()
    spread = z_raw.std(dim=(0, 2, 3))[:, None, None]
    noise = (add_noise(z_raw, share, generator(1)) - z_raw) / spread
    amount = noise.std(dim=(1, 2, 3)) / share  # of each image
    assert amount.min() < 0.1 and 0.9 < amount.max() < 1.1
    assert amount.mean().item() == pytest.approx(0.5, abs=0.08)
    of_channel = noise.std(dim=(2, 3)) / share
    torch.testing.assert_close(of_channel, amount[:, None].expand(-1, 3), rtol=0, atol=0.15)
    torch.testing.assert_close(noise.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=0.02 * share)
    torch.testing.assert_close(add_noise(z_raw, share, generator(1)), z_raw + noise * spread)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_a_larger_scale_buys_no_better_signal(scale):
    z_raw = make_latents()
    torch.testing.assert_close(
        add_noise(scale * z_raw, 0.1, generator()) / scale, add_noise(z_raw, 0.1, generator())
    )
    factor = torch.tensor(scale, requires_grad=True)
    (add_noise(factor * z_raw, 0.1, generator()) / factor).square().mean().backward()
    assert factor.grad.abs() * scale < 1e-4


def test_the_penalty_is_the_kl_of_gaussians_and_least_at_mean_0_and_variance_1():
    z_raw = make_latents()
    mean, variance = channel_moments(z_raw)
    torch.testing.assert_close(mean, z_raw.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(variance, z_raw.var(dim=(0, 2, 3), correction=0))
    normal = torch.distributions.Normal(mean, variance.sqrt())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(scale_penalty(z_raw), expected)
    standard = (z_raw - mean[:, None, None]) / variance.sqrt()[:, None, None]
    assert scale_penalty(standard).abs() < 1e-5


def test_constant_latents_leave_gradients_finite():
    z_raw = torch.zeros(4, 2, 4, 4, requires_grad=True)
    (add_noise(z_raw, 0.1, generator()).square().sum() + scale_penalty(z_raw)).backward()
    assert z_raw.grad.isfinite().all()


def test_latents_are_deterministic_and_only_training_sees_noise():
    torch.manual_seed(0)
    model = NoiseAutoencoder(SMALL, 0.1)
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    statistics = model.encode_statistics(image)
    assert statistics.shape == (2, 2, 2, 2)
    assert torch.equal(model.sample_raw(statistics, generator()), model.encode(image))
    clean, noisy = model.reconstruct(image), model.reconstruct(image, generator())
    assert torch.equal(clean.image_hat, model.decode(statistics))
    assert torch.equal(noisy.image_hat, model.decode(add_noise(statistics, 0.1, generator())))
    assert torch.equal(clean.regulariser, noisy.regulariser)
    assert model.decode(statistics).shape == image.shape


def test_a_trained_step_reaches_every_parameter():
    torch.manual_seed(0)
    model = NoiseAutoencoder(SMALL, 0.1)
    image = torch.rand(4, 3, 8, 8) * 2 - 1
    reconstruction = model.reconstruct(image, generator())
    ((reconstruction.image_hat - image).square().mean() + reconstruction.regulariser).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.last_layer is model.decoder.conv_out.weight


def train(model, contrast, weight):
    """Train on pictures that two numbers decide; the share of their variance that is lost, and moments."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    draw = generator(2)
    pattern = torch.rand(2, 3, 8, 8, generator=draw) * 2 - 1
    for _ in range(200):
        image = contrast * torch.einsum("bk,kchw->bchw", torch.rand(32, 2, generator=draw) * 2 - 1, pattern)
        reconstruction = model.reconstruct(image, draw)
        loss = (reconstruction.image_hat - image).abs().mean() + weight * reconstruction.regulariser
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lost = (model.decode(model.encode(image)) - image).square().mean() / image.var()
    return lost.item(), measure_latents(model, [model.encode_statistics(image)])


@pytest.mark.parametrize("contrast", [0.02, 0.2, 1.0])
def test_faint_pictures_are_told_as_well_as_strong_ones(contrast):
    """A KL weight that suits strong contrasts drowns faint ones in noise; a share of the spread cannot."""
    torch.manual_seed(0)
    lost, moments = train(NoiseAutoencoder(SMALL, 0.1), contrast, weight=1.0e-3)
    assert lost < 0.2 and moments.noisy_channels == []
    if contrast == 0.02:
        torch.manual_seed(0)
        lost, moments = train(KLAutoencoder(SMALL), contrast, weight=1.0e-3)
        assert lost > 0.8 and moments.noisy_channels == [0, 1]
