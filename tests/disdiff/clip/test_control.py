import pytest
import torch

from disdiff.clip.control import randomise_fields
from disdiff.clip.discovery import name_displacements
from disdiff.clip.displacement import UnitEditor, measure_displacements
from disdiff.editing.units import Directions
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError


def weights(model):
    return {name: tensor.clone() for name, tensor in model.networks.decoder.named_parameters()}


def test_a_random_output_layer_is_random_and_the_rest_stays(model):
    before = weights(model)
    said = randomise_fields(model, "output", 0)
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder.out_conv.weight"} and "random output layer" in said
    ratio = after["decoder.out_conv.weight"].std() / before["decoder.out_conv.weight"].std()
    assert ratio == pytest.approx(1, abs=0.2)


def test_an_untrained_decoder_is_all_random_and_its_fields_differ_by_unit(model, build_tiny_disdiff):
    zero = build_tiny_disdiff("pixel", reads="image")  # output layer and last convolutions at zero
    before = weights(zero)
    randomise_fields(zero, "decoder", 0)
    moved = [name for name, tensor in weights(zero).items() if not torch.equal(tensor, before[name])]
    assert {"decoder.out_conv.weight", "unit_embedding.generator"} <= set(moved)
    z_t, t = torch.randn(2, 3, 16, 16), torch.tensor([300, 300])
    grad = zero.predict(z_t, t, torch.randn(2, 3, 2)).grad
    other = zero.predict(z_t, t, torch.randn(2, 3, 2)).grad
    assert (
        grad.std() > 1e-3 and not torch.allclose(grad[:, 0], grad[:, 1]) and not torch.allclose(grad, other)
    )


@pytest.mark.parametrize("kind", ["output", "decoder"])
def test_the_seed_decides(model, kind):
    randomise_fields(model, kind, 3)
    first = weights(model)["decoder.out_conv.weight"]
    randomise_fields(model, "decoder", 4)
    assert not torch.equal(first, weights(model)["decoder.out_conv.weight"])


def test_a_control_gets_no_names(model, halves, directions, embeddings):
    """Random fields move images, and what is seen of it, in directions that chance explains."""
    randomise_fields(model, "output", 0)
    image = to_float(halves.images(torch.arange(12)))
    code = model.encode(image)
    along = Directions(code.mean(dim=0), torch.ones(3, 2), code.std(dim=0).mean(dim=1))
    editor = UnitEditor(model, image, along, SamplerConfig("ddim", 4, 0.0))
    project = torch.randn(3 * 16 * 16, 12, generator=torch.Generator().manual_seed(1))
    found = measure_displacements(editor, lambda part: part.flatten(1) @ project, [0, 1, 2])
    moved = found.moved / found.moved.norm(dim=2).mean()
    findings = name_displacements([0, 1, 2], moved, directions, embeddings, torch.Generator().manual_seed(0))
    assert [each.verdict for each in findings if each.verdict == "named"] == []


def test_the_control_of_a_decoder_that_learnt_nothing_has_no_effect(
    build_tiny_disdiff, halves, directions, embeddings
):
    """Its output layer is zero, and a random one of the same mean square is, too: exactly nothing moves."""
    idle = build_tiny_disdiff("pixel", reads="image").eval().requires_grad_(False)
    randomise_fields(idle, "output", 0)
    image = to_float(halves.images(torch.arange(4)))
    code = idle.encode(image)
    editor = UnitEditor(idle, image, Directions(code.mean(dim=0), torch.ones(3, 2), torch.ones(3)),
                  SamplerConfig("ddim", 2, 0.0))  # fmt: skip
    project = torch.randn(3 * 16 * 16, 12, generator=torch.Generator().manual_seed(1))
    found = measure_displacements(editor, lambda part: part.flatten(1) @ project, [0, 1, 2])
    assert not found.moved.any()
    generator = torch.Generator().manual_seed(0)
    findings = name_displacements([0, 1, 2], found.moved, directions, embeddings, generator)
    assert [(each.verdict, each.effect, each.p_corrected) for each in findings] == [
        ("no effect", 0.0, 1.0)
    ] * 3


def test_systems_without_a_decoder_have_no_control(model):
    with pytest.raises(UserError, match="no gradient decoder"):
        randomise_fields(torch.nn.Identity(), "output", 0)
    with pytest.raises(UserError, match="--control=all is unknown"):
        randomise_fields(model, "all", 0)
