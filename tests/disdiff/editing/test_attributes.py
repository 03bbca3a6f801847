import pytest
import torch

from disdiff.editing.attributes import fit_attribute
from ldm.errors import UserError


@pytest.fixture
def codes():
    """Codes (500, 4, 1) whose second number decides the attribute, of unlike scales."""
    scales = torch.tensor([1.0, 5.0, 0.1, 2.0])
    return (torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * scales + 3)[..., None]


def test_the_classifier_finds_the_number_that_decides(codes):
    labels = codes[:, 1, 0] > 4
    attribute = fit_attribute(codes, labels)
    assert ((attribute.score(codes) > 0) == labels).double().mean() > 0.97
    others = torch.cat([attribute.weight[:1], attribute.weight[2:]])
    assert attribute.weight[1] > 10 * others.abs().max()


def test_moving_goes_the_published_distance_and_back(codes):
    attribute = fit_attribute(codes, codes[:, 1, 0] > 4)
    moved = attribute.move(codes, 0.3)
    step = ((moved - codes).flatten(1) / attribute.std).norm(dim=1)
    torch.testing.assert_close(step, torch.full((500,), 0.3 * 2.0))
    assert (attribute.score(moved) > attribute.score(codes)).all()
    torch.testing.assert_close(attribute.move(moved, -0.3), codes)


def test_an_attribute_of_all_or_none_is_refused(codes):
    for labels in (torch.ones(500, dtype=torch.bool), torch.zeros(500, dtype=torch.bool)):
        with pytest.raises(UserError, match="choose another"):
            fit_attribute(codes, labels)
