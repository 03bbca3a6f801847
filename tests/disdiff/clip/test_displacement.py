import pytest
import torch

from disdiff.clip.displacement import UnitEditor, measure_displacements
from disdiff.editing.units import Directions
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError


def look(image):
    """Mean colour of each half, shape (B, 6): what an image shows, as numbers."""
    return torch.cat([image[..., :8].mean(dim=(2, 3)), image[..., 8:].mean(dim=(2, 3))], dim=1)


@pytest.fixture
def editor(model, halves):
    image = to_float(halves.images(torch.arange(5)))
    code = model.encode(image)
    axis = torch.eye(2)[torch.tensor([0, 1, 0])]
    directions = Directions(code.mean(dim=0), axis, torch.ones(3))
    return UnitEditor(model, image, directions, SamplerConfig("ddim", 4, 0.0), amount=1.5)


@pytest.mark.parametrize("way", ["traverse", "swap", "field"])
def test_displacements_are_what_is_seen_after_less_before(editor, way):
    found = measure_displacements(editor, look, [0, 2], way)
    assert found.units == [0, 2] and found.moved.shape == (2, 5, 6)
    torch.testing.assert_close(found.moved[1], look(found.after[1]) - look(found.before[1]))
    assert way == "field" or (found.before[0] != found.after[0]).any()


def test_a_traversal_ends_where_it_says(editor):
    seen = []
    editor.decode = lambda code, units=None: seen.append(code) or torch.zeros(len(code), 3, 16, 16)
    editor.traverse(1)
    for code, amount in zip(seen, (-1.5, 1.5), strict=True):
        place = (code[:, 1] - editor.directions.mean[1]) @ editor.directions.axis[1]
        torch.testing.assert_close(place, torch.full((5,), amount))
        torch.testing.assert_close(code[:, [0, 2]], editor.code[:, [0, 2]])


@pytest.mark.parametrize(("way", "unit"), [("swap", 0), ("field", 1)])
def test_the_sign_is_such_that_the_unit_grows(editor, way, unit):
    """Turning the unit's axis round turns every displacement round."""
    forth = measure_displacements(editor, look, [unit], way).moved
    editor.directions.axis[unit] *= -1
    back = measure_displacements(editor, look, [unit], way).moved
    torch.testing.assert_close(back, -forth)


def test_a_swap_takes_the_next_images_value(editor):
    seen = []
    editor.decode = lambda code, units=None: seen.append(code) or torch.zeros(len(code), 3, 16, 16)
    editor.swap(2)
    torch.testing.assert_close(seen[0][:, 2], editor.code.roll(1, dims=0)[:, 2])
    torch.testing.assert_close(seen[0][:, :2], editor.code[:, :2])


def test_a_field_is_added_to_the_frozen_model_alone(editor):
    seen = []
    editor.decode = lambda code, units=None: seen.append(units) or torch.zeros(len(code), 3, 16, 16)
    editor.field(1)
    assert seen == [[], [1]]


def test_what_cannot_be_done_is_said(editor, model, monkeypatch):
    with pytest.raises(UserError, match="--by=push is unknown"):
        measure_displacements(editor, look, [0], "push")
    monkeypatch.setattr(type(model), "has_unit_fields", False)
    with pytest.raises(UserError, match="no separate gradient fields"):
        editor.field(0)
    editor.code = editor.code[:1]
    with pytest.raises(UserError, match="two images"):
        editor.swap(0)
