import pytest
import torch

from disdiff.clip.displacement import Mover, measure_displacements
from disdiff.editing.units import Directions
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError


def look(image):
    """Mean colour of each half, shape (B, 6): what an image shows, as numbers."""
    return torch.cat([image[..., :8].mean(dim=(2, 3)), image[..., 8:].mean(dim=(2, 3))], dim=1)


@pytest.fixture
def mover(model, halves):
    image = to_float(halves.images(torch.arange(5)))
    code = model.encode(image)
    axis = torch.eye(2)[torch.tensor([0, 1, 0])]
    directions = Directions(code.mean(dim=0), axis, torch.ones(3))
    return Mover(model, image, directions, SamplerConfig("ddim", 4, 0.0), amount=1.5)


@pytest.mark.parametrize("way", ["traverse", "swap", "field"])
def test_displacements_are_what_is_seen_after_less_before(mover, way):
    found = measure_displacements(mover, look, [0, 2], way)
    assert found.units == [0, 2] and found.moved.shape == (2, 5, 6)
    torch.testing.assert_close(found.moved[1], look(found.after[1]) - look(found.before[1]))
    assert way == "field" or (found.before[0] != found.after[0]).any()


def test_a_traversal_ends_where_it_says(mover):
    seen = []
    mover.decode = lambda code, units=None: seen.append(code) or torch.zeros(len(code), 3, 16, 16)
    mover.traverse(1)
    for code, amount in zip(seen, (-1.5, 1.5), strict=True):
        place = (code[:, 1] - mover.directions.mean[1]) @ mover.directions.axis[1]
        torch.testing.assert_close(place, torch.full((5,), amount))
        torch.testing.assert_close(code[:, [0, 2]], mover.code[:, [0, 2]])


@pytest.mark.parametrize(("way", "unit"), [("swap", 0), ("field", 1)])
def test_the_sign_is_such_that_the_unit_grows(mover, way, unit):
    """Turning the unit's axis round turns every displacement round."""
    forth = measure_displacements(mover, look, [unit], way).moved
    mover.directions.axis[unit] *= -1
    back = measure_displacements(mover, look, [unit], way).moved
    torch.testing.assert_close(back, -forth)


def test_a_swap_takes_the_next_images_value(mover):
    seen = []
    mover.decode = lambda code, units=None: seen.append(code) or torch.zeros(len(code), 3, 16, 16)
    mover.swap(2)
    torch.testing.assert_close(seen[0][:, 2], mover.code.roll(1, dims=0)[:, 2])
    torch.testing.assert_close(seen[0][:, :2], mover.code[:, :2])


def test_a_field_is_added_to_the_frozen_model_alone(mover):
    seen = []
    mover.decode = lambda code, units=None: seen.append(units) or torch.zeros(len(code), 3, 16, 16)
    mover.field(1)
    assert seen == [[], [1]]


def test_what_cannot_be_done_is_said(mover, model, monkeypatch):
    with pytest.raises(UserError, match="--by=push is unknown"):
        measure_displacements(mover, look, [0], "push")
    monkeypatch.setattr(type(model), "has_unit_fields", False)
    with pytest.raises(UserError, match="no separate gradient fields"):
        mover.field(0)
    mover.code = mover.code[:1]
    with pytest.raises(UserError, match="two images"):
        mover.swap(0)
