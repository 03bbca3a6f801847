from dataclasses import replace

import numpy as np
import pytest
import torch

from ldm.autoencoder.identity import IdentityAutoencoder
from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.latent_space import LatentMoments, LatentSpace, fit_standardisation, measure_latents
from ldm.autoencoder.networks import NetworkConfig
from ldm.autoencoder.noise import NoiseAutoencoder
from ldm.autoencoder.vq import VQAutoencoder
from ldm.errors import UserError

SMALL = NetworkConfig(channels=8, channel_mult=[1, 2], num_res_blocks=1, num_groups=4)
BUILDERS = [
    lambda: VQAutoencoder(SMALL, codebook_size=8),
    lambda: KLAutoencoder(SMALL),
    lambda: NoiseAutoencoder(SMALL, 0.1),
    IdentityAutoencoder,
]


@pytest.mark.parametrize("build", BUILDERS, ids=["vq", "kl", "noise", "identity"])
def test_every_bottleneck_serves_the_same_calls(build):
    torch.manual_seed(0)
    space = LatentSpace(build(), mean=0.5, std=2.0)
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    z = space.encode(image, torch.Generator().manual_seed(0))
    assert z.shape == (2, *space.latent_shape(8))
    assert space.decode(z).shape == image.shape
    torch.testing.assert_close(space.decode(z, quantize=False), space.autoencoder.decode(z * 2 + 0.5, False))
    result = space.autoencoder.reconstruct(image, torch.Generator().manual_seed(0))
    assert result.image_hat.shape == image.shape and result.regulariser.shape == ()


@pytest.mark.parametrize(
    "mean, std", [(0.3, 2.0), (torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 4.0]))]
)
def test_standardising_and_back(mean, std):
    space = LatentSpace(IdentityAutoencoder(), mean, std)
    z_raw = torch.randn(2, 3, 4, 4)
    channel = 2
    expected = (z_raw[:, channel] - torch.as_tensor(mean).expand(3)[channel]) / torch.as_tensor(std).expand(
        3
    )[channel]
    torch.testing.assert_close(space.standardise(z_raw)[:, channel], expected)
    torch.testing.assert_close(space.to_raw(space.standardise(z_raw)), z_raw)


def test_standardisation_travels_with_the_weights():
    source = LatentSpace(IdentityAutoencoder(), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))
    target = LatentSpace(IdentityAutoencoder())
    target.load_state_dict(source.state_dict())
    image = torch.rand(1, 3, 2, 2)
    assert torch.equal(target.encode(image), source.encode(image))
    assert not list(target.parameters())


def test_encoding_and_decoding_leave_gradients_to_the_caller():
    space = LatentSpace(VQAutoencoder(SMALL, codebook_size=8))
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    space.decode(space.encode(image), quantize=False).mean().backward()
    assert image.grad.abs().sum() > 0
    with torch.no_grad():
        assert not space.encode(image).requires_grad


def test_image_size_must_fit():
    space = LatentSpace(KLAutoencoder(SMALL))
    assert space.latent_shape(8) == (3, 4, 4)
    with pytest.raises(UserError, match="9 pixels.*2-fold"):
        space.latent_shape(9)


def make_latents():
    scale, shift = np.array([1.0, 2.0, 5.0]), np.array([100.0, 0.0, -1.0])
    latents = (
        np.random.default_rng(0).normal(size=(50, 3, 4, 4)) * scale[:, None, None] + shift[:, None, None]
    )
    return latents.astype(np.float32)


def measure(chunks, autoencoder=None):
    return measure_latents(autoencoder or IdentityAutoencoder(), (torch.as_tensor(chunk) for chunk in chunks))


def test_fitting_over_uneven_chunks_equals_numpy():
    latents = make_latents()
    moments = measure([latents[:1], latents[1:30], latents[30:]])
    mean, std = fit_standardisation(moments)
    assert mean == 0 and mean.shape == std.shape == ()
    assert std.item() == pytest.approx(latents.astype(np.float64).std(), rel=1e-6)
    mean, std = fit_standardisation(moments, per_channel=True)
    np.testing.assert_allclose(mean, latents.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(std, latents.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-5)
    assert moments.noise.tolist() == [0, 0, 0] and moments.noisy_channels == []


def make_posteriors(spreads, noises):
    """Moments of 60 Gaussian posteriors whose channels' means and draws deviate so much."""
    generator = torch.Generator().manual_seed(0)
    spread, noise = (torch.tensor(values)[:, None, None] for values in (spreads, noises))
    mean = torch.randn(60, len(spreads), 8, 8, generator=generator) * spread + 3.0
    logvar = (2 * noise.log()).expand_as(mean) + 0.2 * torch.randn(mean.shape, generator=generator)
    return torch.cat([mean, logvar], dim=1)


@pytest.mark.parametrize(
    "spreads, noises, noisy",
    [
        ([0.036, 0.028, 0.686, 0.031], [0.91, 0.91, 0.05, 0.91], [0, 1, 3]),  # channels that collapsed
        ([1.0, 2.0, 0.5], [0.1, 0.1, 0.1], []),
        ([0.02, 5.0], [1.0, 6.0], [0, 1]),
    ],
)
def test_a_posterior_is_standardised_as_it_is_drawn(spreads, noises, noisy):
    autoencoder = KLAutoencoder(replace(SMALL, z_channels=len(spreads)))
    statistics = make_posteriors(spreads, noises)
    moments = measure(statistics.split(17), autoencoder)
    assert moments.noisy_channels == noisy
    space = LatentSpace(autoencoder, *fit_standardisation(moments, per_channel=True))
    z = space.standardise(autoencoder.sample_raw(statistics, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(len(spreads)), atol=0.05, rtol=0)
    space.set_standardisation(*fit_standardisation(moments))
    z = space.standardise(autoencoder.sample_raw(statistics, torch.Generator().manual_seed(1)))
    assert z.std().item() == pytest.approx(1, abs=0.05)


def test_channels_of_more_noise_than_signal_are_named_with_a_remedy():
    moments = LatentMoments(np.zeros(3), np.array([1.0, 0.1, 0.2]), np.array([0.9, 0.5, 0.3]))
    line = moments.describe_noise()
    assert "2 of 3 latent channels (1, 2)" in line and "\n" not in line
    assert "weight_regulariser" in line and "autoencoder.kind=noise" in line


def test_per_channel_standardised_latents_have_mean_0_and_std_1():
    latents = torch.from_numpy(make_latents())
    space = LatentSpace(IdentityAutoencoder(), *fit_standardisation(measure([latents]), per_channel=True))
    z = space.standardise(latents)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3), correction=0), torch.ones(3))


@pytest.mark.parametrize(
    "chunks, message",
    [
        ([], "no latents"),
        ([np.full((2, 3, 4, 4), 0.1)], "collapsed"),
        ([np.full((2, 3, 4, 4), np.nan)], "collapsed"),
    ],
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_latents_without_spread_are_refused(chunks, message, per_channel):
    with pytest.raises(UserError, match=message):
        fit_standardisation(measure(chunks), per_channel)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_posterior_that_says_nothing_is_refused_whatever_its_noise(per_channel):
    statistics = torch.cat([torch.full((2, 3, 4, 4), 0.1), torch.zeros(2, 3, 4, 4)], dim=1)
    with pytest.raises(UserError, match="collapsed"):
        fit_standardisation(measure([statistics], KLAutoencoder(SMALL)), per_channel)
