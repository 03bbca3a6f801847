"""A start on averaged pixels, estimated from the encoder's input."""

import pytest
import torch

from disdiff.initialisation.pixels import SIDE, PixelCode, average_pixels
from disdiff.initialisation.principal import PrincipalComponents
from disdiff.method.factor_encoder import FactorEncoder, FactorEncoderConfig


@pytest.fixture
def pixels(generator):
    return torch.randn(1000, 3 * SIDE**2, generator=generator)


def test_images_are_averaged_over_blocks():
    image = (
        torch.arange(16.0)
        .repeat_interleave(4)
        .view(1, 1, 8, 8)
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
    )
    assert torch.equal(average_pixels(image), torch.arange(16.0).repeat_interleave(4)[None])


def test_pixels_that_are_linear_in_the_input_are_estimated_exactly(pixels, generator):
    """Then the start on the input is the start on the pixels."""
    mixing = torch.linalg.qr(torch.randn(pixels.shape[1], pixels.shape[1], generator=generator)).Q
    x = pixels @ mixing
    code = PixelCode(x.shape[1], PrincipalComponents(pixels.shape[1], 4), pixels.shape[1])
    code.fit_pixels(x, pixels)
    torch.testing.assert_close(code.estimate(x), pixels, atol=5e-3, rtol=0)
    code.fit(x)
    plain = PrincipalComponents(pixels.shape[1], 4)
    plain.fit(code.estimate(x))
    torch.testing.assert_close(code(x), plain(code.estimate(x)))


def test_a_model_fits_its_start_to_the_pixels_that_its_latents_decode_to(build_tiny_disdiff, generator):
    model = build_tiny_disdiff(start="principal", start_reads="pixels").eval()
    z_0 = torch.randn(600, 4, 8, 8, generator=generator)
    model.fit_start(z_0)
    initial, decoded = model.networks.encoder.components, model.latent_space.decode(z_0)
    assert isinstance(initial, PixelCode)
    estimated, true = initial.estimate(z_0), average_pixels(decoded)
    assert (estimated - true).var() < 0.5 * true.var()
    assert model.networks.encoder(z_0).flatten(1).std(dim=0).tolist() == pytest.approx([1.0] * 6, rel=0.05)


def test_the_start_reads_the_input_unless_told(build_tiny_disdiff):
    assert build_tiny_disdiff(start="principal").networks.encoder.pixels_needed == 0
    config = FactorEncoderConfig(start="random", start_reads="pixels", channels=8)
    assert FactorEncoder(config, 4, 8, 3, 2).pixels_needed == 0
