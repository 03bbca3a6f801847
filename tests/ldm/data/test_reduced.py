import pytest
import torch

from ldm.data.catalog import DataOptions, open_data
from ldm.data.source import describe_source

INDEX = torch.tensor([7, 470_000, 7, 12])


@pytest.mark.parametrize("name", ["shapes3d", "shapes3d_nonlinear", "dsprites_color", "glyphs"])
@pytest.mark.parametrize("size", [32, 16])
def test_a_pixel_is_the_average_of_a_square(name, size):
    whole = open_data(DataOptions(name, f"data/{name}", "always"))
    small = open_data(DataOptions(name, f"data/{name}", "always", image_size=size))
    k = 64 // size
    squares = whole.images(INDEX).double().unfold(2, k, k).unfold(3, k, k).mean(dim=(4, 5))
    images = small.images(INDEX)
    assert images.dtype == torch.uint8 and images.shape == (4, 3, size, size)
    assert (images.double() - squares).abs().max() <= 0.5
    assert torch.equal(small.factors(INDEX), whole.factors(INDEX)) and len(small) == len(whole)
    assert small.factor_space == whole.factor_space and small.procedural


def test_the_size_is_part_of_the_identity_and_of_the_description():
    shapes3d = DataOptions("shapes3d", "data/shapes3d", "always")
    same, small = open_data(shapes3d), open_data(DataOptions(**{**vars(shapes3d), "image_size": 32}))
    whole = open_data(DataOptions(**{**vars(shapes3d), "image_size": 64}))
    assert whole.identity == same.identity != small.identity
    assert describe_source(small)["preparation"] == "averaged to 32x32"
    empty = small.images(torch.zeros(0, dtype=torch.long))
    assert empty.shape == (0, 3, 32, 32)
