import numpy as np
import pytest
import scipy.linalg
import torch

from disdiff.method.gradient_decoder import (
    GradientDecoder,
    GradientDecoderConfig,
    OrthogonalEmbedding,
    PrivateCondition,
)
from ldm.errors import UserError
from ldm.nn.layers import CrossAttention
from ldm.nn.unet import UNet, UNetConfig


def difference(a, b):
    """Norm of the difference over the norm of `b`."""
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture
def build(tiny_unet, randomise):
    """Return a function that gives a decoder of 6 units of 3 numbers, random, with features and a code."""

    def make(kind="orthogonal", num_units=6, dtype=torch.float64, **options):
        torch.manual_seed(0)
        unet = randomise(UNet(tiny_unet, 3)).to(dtype)
        features = unet.features(torch.randn(2, 3, 8, 8).to(dtype), torch.tensor([30, 800]))
        decoder = GradientDecoder(
            GradientDecoderConfig(unit_embedding=kind, **options), tiny_unet, num_units, 3, 3
        )
        randomise(decoder.decoder)
        return decoder.to(dtype), features, torch.randn(2, num_units, 3).to(dtype)

    return make


@pytest.mark.parametrize("modulation", ["affine", "attention"])
def test_zero_at_initialisation(tiny_unet, modulation):
    config = GradientDecoderConfig(modulation=modulation)
    decoder = GradientDecoder(config, tiny_unet, 4, 3, out_channels=3)
    features = UNet(tiny_unet, 3).features(torch.randn(2, 3, 8, 8), torch.tensor([0, 5]))
    grad = decoder(features, torch.randn(2, 4, 3))
    assert grad.shape == (2, 4, 3, 8, 8) and not grad.any()


def first_gradient(tiny_unet, residual_init):
    """Largest gradient of the code's condition at initialisation, after the output layer has been opened."""
    torch.manual_seed(0)
    config = GradientDecoderConfig(condition="private", residual_init=residual_init)
    decoder = GradientDecoder(config, tiny_unet, 4, 3, out_channels=3)
    features = UNet(tiny_unet, 3).features(torch.randn(2, 3, 8, 8), torch.tensor([0, 5]))
    assert not decoder(features, torch.randn(2, 4, 3)).any()  # zero at initialisation all the same
    torch.nn.init.ones_(decoder.decoder.out_conv.weight)
    decoder(features, torch.randn(2, 4, 3)).square().sum().backward()
    return max(p.grad.abs().max().item() for p in decoder.condition.parameters())


def test_only_open_residual_blocks_let_a_code_through_at_first(tiny_unet):
    assert first_gradient(tiny_unet, "zero") == 0.0
    assert first_gradient(tiny_unet, "default") > 0.0


def test_harmonics_make_a_condition_periodic_but_for_its_linear_part():
    condition = PrivateCondition(2, 1, 8, harmonics=3)
    with torch.no_grad():
        condition.lift.weight[:, 0] = 0  # what reads the number itself
    code = torch.tensor([[[0.4], [-1.1]]])
    torch.testing.assert_close(
        condition(code, None), condition(code + 2 * 3**0.5, None), rtol=1e-4, atol=1e-5
    )
    assert (condition(code, None) - condition(code + 1, None)).abs().min() > 0


def test_the_released_decoder_has_the_released_size():
    with torch.device("meta"):
        decoder = GradientDecoder(GradientDecoderConfig(), UNetConfig(), 6, 32, out_channels=3)
    assert round(sum(p.numel() for p in decoder.parameters()) / 1e6, 2) == 22.74


@pytest.mark.parametrize("kind", ["orthogonal", "learned", "none"])
@pytest.mark.parametrize("num_units", [1, 6, 10])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_one_pass_equals_the_loop_over_units(build, kind, num_units, dtype, tolerance):
    decoder, features, code = build(kind, num_units, dtype)
    looped = [decoder(features, code[:, k : k + 1], torch.tensor([k])) for k in range(num_units)]
    assert difference(decoder(features, code), torch.cat(looped, dim=1)) <= tolerance


def test_one_pass_gives_the_gradients_of_the_loop(build):
    decoder, features, code = build("learned")  # the matrix exponential is float32 in any case
    code.requires_grad_()
    wanted = [code, *decoder.parameters()]
    weight = torch.randn(2, 6, 3, 8, 8).double()
    together = torch.autograd.grad((weight * decoder(features, code)).sum(), wanted)
    looped = [decoder(features, code[:, k : k + 1], torch.tensor([k])) for k in range(6)]
    one_by_one = torch.autograd.grad((weight * torch.cat(looped, dim=1)).sum(), wanted)
    assert max(difference(a, b) for a, b in zip(together, one_by_one, strict=True)) <= 1e-9


@pytest.mark.parametrize("kind", ["orthogonal", "learned", "none"])
@pytest.mark.parametrize("condition", ["shared", "private"])
@pytest.mark.parametrize("modulation", ["affine", "attention"])
def test_permuting_units_with_their_indices_permutes_the_fields(build, kind, condition, modulation):
    decoder, features, code = build(kind, condition=condition, modulation=modulation)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    grad = decoder(features, code)
    assert difference(decoder(features, code[:, order], order), grad[:, order]) < 1e-12
    assert torch.equal(decoder(features, code, torch.arange(6)), grad)


@pytest.mark.parametrize("kind", ["orthogonal", "learned"])
@pytest.mark.parametrize("condition", ["shared", "private"])
def test_units_may_differ_by_image(build, kind, condition):
    decoder, features, code = build(kind, condition=condition)
    units = torch.tensor([[1, 4], [5, 0]])
    chosen = code[torch.arange(2)[:, None], units]
    expected = decoder(features, code)[torch.arange(2)[:, None], units]
    assert difference(decoder(features, chosen, units), expected) < 1e-12


def test_units_of_one_code_differ_only_by_their_embedding(build):
    decoder, features, code = build("orthogonal")
    same = code[:, :1].expand(-1, 6, -1)
    assert decoder(features, same).std(dim=1).mean() > 1e-3
    decoder, features, _ = build("none")
    grad = decoder(features, same)
    torch.testing.assert_close(grad, grad[:, :1].expand_as(grad))


@pytest.mark.parametrize("modulation", ["affine", "attention"])
def test_each_field_depends_on_its_own_code_alone(build, modulation):
    decoder, features, code = build(modulation=modulation)
    changed = code.clone()
    changed[:, 2] += 1
    moved = (decoder(features, changed) - decoder(features, code)).abs().amax(dim=(0, 2, 3, 4))
    assert moved[2] > 1e-3 and moved[[0, 1, 3, 4, 5]].max() < 1e-12


def test_a_narrow_and_shallow_decoder(build):
    decoder, features, code = build(channels=4, num_res_blocks=0)
    assert decoder(features, code).shape == (2, 6, 3, 8, 8)


def test_orthogonal_rows_are_the_matrix_exponential(tiny_unet):
    embedding = OrthogonalEmbedding(5, tiny_unet.emb_dim)
    with torch.no_grad():  # the projection becomes the identity on the basis
        embedding.project.weight.copy_(torch.eye(tiny_unet.emb_dim, tiny_unet.emb_dim // 2))
        embedding.project.bias.zero_()
    rows = embedding().detach()[:, : tiny_unet.emb_dim // 2]
    torch.testing.assert_close(rows @ rows.T, torch.eye(5), rtol=0, atol=1e-5)
    w = embedding.generator.detach().double().numpy()
    np.testing.assert_allclose(rows, scipy.linalg.expm(-(w - w.T))[:5], atol=1e-5)
    assert (
        np.abs(rows.numpy() - scipy.linalg.expm(w - w.T)[:5]).max() > 0.1
    )  # the other sign is another matrix


def test_more_units_than_orthogonal_vectors(tiny_unet):
    with pytest.raises(UserError, match="17 units .* has 16"):
        GradientDecoder(GradientDecoderConfig(), tiny_unet, 17, 3, 3)


def test_an_unknown_embedding_is_named(tiny_unet):
    with pytest.raises(UserError, match="orthogonall is unknown"):
        GradientDecoder(GradientDecoderConfig(unit_embedding="orthogonall"), tiny_unet, 4, 3, 3)


def test_more_blocks_than_the_features_have_skips(tiny_unet):
    with pytest.raises(UserError, match="num_res_blocks"):
        GradientDecoder(GradientDecoderConfig(num_res_blocks=2), tiny_unet, 4, 3, 3)


def test_by_attention_the_code_enters_through_the_tokens_alone(build):
    decoder, features, code = build(modulation="attention")
    crosses = [module for module in decoder.modules() if isinstance(module, CrossAttention)]
    assert len(crosses) == len(decoder.decoder.up) + 1  # after every block, and in the middle
    assert difference(decoder(features, code + 1), decoder(features, code)) > 1e-3
    with torch.no_grad():
        for cross in crosses:
            cross.out.weight.zero_()
    assert torch.equal(decoder(features, code + 1), decoder(features, code))


def test_every_pixel_chooses_among_several_tokens_of_its_unit(build):
    """Of one token the softmax is 1 and every pixel gets the same; of four they differ."""
    decoder, features, code = build(modulation="attention")
    cross, seen = decoder.decoder.middle_cross, []
    hook = cross.register_forward_pre_hook(lambda module, arguments: seen.append(arguments))
    decoder(features, code)
    hook.remove()
    h, tokens = seen[0]
    assert tokens.shape[:2] == (2 * 6, 4)
    added, of_one = cross(h, tokens) - h, cross(h, tokens[:, :1]) - h
    torch.testing.assert_close(of_one, of_one[:, :, :1, :1].expand_as(of_one))
    assert added.std(dim=(2, 3)).mean() > 1e-3 * added.std()


def test_by_attention_too_a_field_reads_its_own_code_alone(build):
    decoder, features, code = build(modulation="attention")
    moved = code.clone()
    moved[:, 2] += 1
    changed = (decoder(features, moved) != decoder(features, code)).flatten(2).any(dim=2)
    assert changed[:, 2].all() and changed.sum() == 2


def test_one_pass_by_attention_equals_the_loop_over_units(build):
    decoder, features, code = build(modulation="attention")
    looped = [decoder(features, code[:, k : k + 1], torch.tensor([k])) for k in range(6)]
    assert difference(decoder(features, code), torch.cat(looped, dim=1)) <= 1e-9


def test_an_unknown_modulation_is_named(tiny_unet):
    with pytest.raises(UserError, match="code.decoder.modulation=film is unknown"):
        GradientDecoder(GradientDecoderConfig(modulation="film"), tiny_unet, 4, 3, 3)
