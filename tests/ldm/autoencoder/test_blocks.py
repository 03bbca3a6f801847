import pytest
import torch
import torch.nn.functional as F

from ldm.autoencoder.blocks import LinearBlocks
from ldm.autoencoder.networks import NetworkConfig
from ldm.autoencoder.noise import NoiseAutoencoder, channel_moments
from ldm.errors import UserError

SMALL = NetworkConfig(
    channels=8, channel_mult=[1], num_res_blocks=1, z_channels=5, attention=False, num_groups=4, patch=4
)


def make_images(count=64, size=16, seed=0):
    """Smooth pictures: their blocks of 4x4 pixels have few components that matter."""
    coarse = torch.randn(count, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bilinear").clamp(-1, 1) * 0.8


def project(images, channels):
    """The best linear reconstruction of 4x4 blocks from so many numbers, by singular values."""
    blocks = F.pixel_unshuffle(images, 4).movedim(1, -1).flatten(0, 2)
    mean = blocks.mean(dim=0)
    basis = torch.linalg.svd(blocks - mean, full_matrices=False).Vh[:channels]
    return ((blocks - mean) @ basis.T @ basis + mean).unflatten(0, (len(images), 4, 4)).movedim(-1, 1)


@pytest.mark.parametrize("channels", [1, 5, 16])
def test_the_start_restores_as_much_as_principal_components(channels):
    images = make_images()
    maps = LinearBlocks(3, 4, channels)
    maps.fit(images)
    expected = F.pixel_shuffle(project(images, channels), 4)
    torch.testing.assert_close(maps.decode(maps.encode(images)), expected, atol=1e-3, rtol=0)


def test_latents_start_standardised_and_uncorrelated():
    images = make_images()
    maps = LinearBlocks(3, 4, 5)
    maps.fit(images)
    z_raw = maps.encode(images)
    mean, variance = channel_moments(z_raw)
    torch.testing.assert_close(mean, torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance, torch.ones(5), atol=1e-3, rtol=0)
    correlation = torch.corrcoef(z_raw.movedim(1, 0).flatten(1))
    torch.testing.assert_close(correlation, torch.eye(5), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "images",
    [
        torch.full((4, 3, 8, 8), 0.3),  # of one colour
        make_images()[:, :1].repeat(1, 3, 1, 1),  # grey: a third of the components at most
        make_images()[:1, :, :4, :4],  # a single block
    ],
    ids=["constant", "grey", "single"],
)
def test_few_components_leave_the_maps_finite_and_exact(images):
    maps = LinearBlocks(3, 4, 20)
    maps.fit(images)
    assert all(parameter.isfinite().all() for parameter in maps.parameters())
    assert maps.encode(images).abs().max() < 100
    torch.testing.assert_close(maps.decode(maps.encode(images)), images, atol=1e-3, rtol=0)


def test_a_first_stage_starts_as_its_linear_maps_and_trains_all_of_it():
    torch.manual_seed(0)
    model = NoiseAutoencoder(SMALL, 0.05, "principal")
    images = make_images()
    assert model.starts_at_data and not NoiseAutoencoder(SMALL, 0.05).starts_at_data
    model.fit_start(images)
    assert torch.equal(model.encode(images), model.blocks.encode(images))
    assert torch.equal(model.decode(model.encode(images)), model.blocks.decode(model.encode(images)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = [parameter.clone() for parameter in model.parameters()]
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        reconstruction = model.reconstruct(images, generator)
        optimizer.zero_grad()
        ((reconstruction.image_hat - images).square().mean() + reconstruction.regulariser).backward()
        optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))


def test_more_channels_than_numbers_in_a_block_are_refused():
    with pytest.raises(UserError, match="4x4 pixels have 48 principal components.*z_channels=49"):
        LinearBlocks(3, 4, 49)
    LinearBlocks(3, 4, 48)
