import sys
import types

import pytest
import torch

from ldm.autoencoder.networks import NetworkConfig
from ldm.autoencoder.vq import VQAutoencoder, codebook_usage
from ldm.errors import UserError

SMALL = NetworkConfig(channels=8, channel_mult=[1, 2], num_res_blocks=1, num_groups=4)


def build(codebook_size=16, **options):
    torch.manual_seed(0)
    return VQAutoencoder(SMALL, codebook_size=codebook_size, **options)


def nearest_codes(z_raw, codes):
    distances = (z_raw.movedim(1, -1).unsqueeze(-2) - codes).square().sum(-1)  # (B, h, w, n)
    return distances.argmin(-1)


def test_shapes():
    model = build()
    z_raw = model.encode(torch.zeros(2, 3, 8, 8))
    quantized = model.quantize(z_raw)
    assert z_raw.shape == quantized.z_q.shape == (2, 3, 4, 4) == (2, model.latent_channels, 4, 4)
    assert quantized.indices.shape == (2, 4, 4) and quantized.indices.dtype == torch.int64
    assert model.decode(z_raw).shape == (2, 3, 8, 8)


def test_quantisation_takes_the_nearest_code():
    model = build()
    model.quantizer.embedding.weight.data.normal_()
    z_raw = torch.randn(2, 3, 4, 4)
    codes = model.quantizer.embedding.weight
    quantized = model.quantize(z_raw)
    torch.testing.assert_close(quantized.indices, nearest_codes(z_raw, codes))
    torch.testing.assert_close(quantized.z_q, codes[quantized.indices].movedim(-1, 1))


def test_quantisation_is_float32_under_bf16_autocast():
    model = build(codebook_size=512)
    model.quantizer.embedding.weight.data.normal_()
    z_raw = torch.randn(4, 3, 16, 16)
    plain = model.quantize(z_raw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        unprotected = model.quantizer(z_raw)[2][2]
        mixed = model.quantize(z_raw)
        rounded = model.quantize(z_raw.bfloat16())
    assert not torch.equal(unprotected, plain.indices)  # what the protection is for
    assert torch.equal(mixed.indices, plain.indices) and torch.equal(mixed.z_q, plain.z_q)
    assert rounded.z_q.dtype == rounded.loss.dtype == torch.float32


def test_the_gradient_passes_straight_through():
    model = build()
    z_raw = torch.randn(2, 3, 4, 4, requires_grad=True)
    upstream = torch.randn(2, 3, 4, 4)
    (grad,) = torch.autograd.grad((model.quantize(z_raw).z_q * upstream).sum(), z_raw)
    torch.testing.assert_close(grad, upstream)


@pytest.mark.parametrize("legacy, code_weight, z_weight", [(False, 1.0, 0.25), (True, 0.25, 1.0)])
def test_beta_weighs_the_commitment_or_in_legacy_mode_the_codes(legacy, code_weight, z_weight):
    model = build(legacy=legacy)
    z_raw = torch.randn(2, 3, 4, 4, requires_grad=True)
    codes = model.quantizer.embedding.weight
    quantized = model.quantize(z_raw)
    grad_z, grad_codes = torch.autograd.grad(quantized.loss, (z_raw, codes))
    difference = (z_raw - codes[quantized.indices].movedim(-1, 1)).detach()
    torch.testing.assert_close(quantized.loss.detach(), 1.25 * difference.square().mean())
    torch.testing.assert_close(grad_z, z_weight * 2 * difference / difference.numel())
    expected = torch.zeros_like(codes).index_add(
        0, quantized.indices.flatten(), difference.movedim(1, -1).reshape(-1, 3)
    )
    torch.testing.assert_close(grad_codes, code_weight * -2 * expected / difference.numel())


def test_decoding_quantises_unless_told_not_to():
    model = build()
    z_raw = torch.randn(1, 3, 4, 4)
    z_q = model.quantize(z_raw).z_q
    torch.testing.assert_close(model.decode(z_raw), model.decode(z_q, quantize=False))
    assert not torch.allclose(model.decode(z_raw), model.decode(z_raw, quantize=False))


def test_reconstruct_trains_every_parameter_and_reports():
    model = build()
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    result = model.reconstruct(image)
    torch.testing.assert_close(result.image_hat, model.decode(model.encode(image)))
    (result.image_hat.square().mean() + result.regulariser).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.last_layer.grad.abs().sum() > 0
    assert set(result.stats) == {"codebook_loss", "perplexity", "used"}
    assert all(value.shape == () and not value.requires_grad for value in result.stats.values())


def test_codebook_usage_of_uniform_constant_and_skewed_indices():
    uniform = codebook_usage(torch.arange(8).repeat(3), 8)
    constant = codebook_usage(torch.full((2, 4, 4), 5), 8)
    skewed = codebook_usage(torch.tensor([0, 0, 1, 2]), 8)
    assert uniform["perplexity"].item() == pytest.approx(8) and uniform["used"].item() == 1
    assert constant["perplexity"].item() == pytest.approx(1) and constant["used"].item() == 1 / 8
    assert skewed["perplexity"].item() == pytest.approx(2**1.5) and skewed["used"].item() == 3 / 8


def test_the_wrong_taming_wheel_is_named(monkeypatch):
    wrong = types.ModuleType("taming.modules.vqvae.quantize")  # 0.0.1: VectorQuantizer only
    wrong.VectorQuantizer = object
    monkeypatch.setitem(sys.modules, "taming.modules.vqvae.quantize", wrong)
    with pytest.raises(UserError, match="wrong wheel.*pip uninstall.*taming-transformers-rom1504==0.0.6"):
        build()
