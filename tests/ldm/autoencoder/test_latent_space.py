import numpy as np
import pytest
import torch

from ldm.autoencoder.identity import IdentityAutoencoder
from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.latent_space import LatentSpace, fit_standardisation
from ldm.autoencoder.networks import NetworkConfig
from ldm.autoencoder.vq import VQAutoencoder
from ldm.errors import UserError

SMALL = NetworkConfig(channels=8, channel_mult=[1, 2], num_res_blocks=1, num_groups=4)
BUILDERS = [lambda: VQAutoencoder(SMALL, codebook_size=8), lambda: KLAutoencoder(SMALL), IdentityAutoencoder]


@pytest.mark.parametrize("build", BUILDERS, ids=["vq", "kl", "identity"])
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


def test_fitting_over_uneven_chunks_equals_numpy():
    latents = make_latents()
    chunks = [latents[:1], torch.from_numpy(latents[1:30]), latents[30:]]
    mean, std = fit_standardisation(chunks)
    assert mean == 0 and mean.shape == std.shape == ()
    assert std.item() == pytest.approx(latents.astype(np.float64).std(), rel=1e-6)
    mean, std = fit_standardisation(chunks, per_channel=True)
    np.testing.assert_allclose(mean, latents.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(std, latents.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-5)


def test_per_channel_standardised_latents_have_mean_0_and_std_1():
    latents = torch.from_numpy(make_latents())
    space = LatentSpace(IdentityAutoencoder(), *fit_standardisation([latents], per_channel=True))
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
        fit_standardisation(chunks, per_channel)
