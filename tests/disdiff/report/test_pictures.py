import numpy as np
import pytest
import torch

from disdiff.editing.units import decode_code, draw_samples, principal_directions, traverse_code
from disdiff.evaluation.codes_file import stack_codes
from disdiff.report.pictures import draw_reconstruction, draw_swap, draw_traversal, label_amounts
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig

SAMPLER = SamplerConfig("ddim", 2, 0.0)


@pytest.fixture
def image(halves):
    return to_float(halves.images(torch.arange(3)))


@pytest.fixture
def z_T(generator):
    return torch.randn(3, 3, 16, 16, generator=generator)


def test_swap_rows_are_source_target_and_one_per_swap(model, image, z_T):
    target = image.flip(0)
    grid = draw_swap(model, image, target, [[0], [0, 1, 2]], SAMPLER, z_T)
    assert grid.shape == (4, 3, 3, 16, 16)
    assert torch.equal(grid[0], image) and torch.equal(grid[1], target)
    everything = decode_code(model, model.encode(target), z_T, SAMPLER)
    torch.testing.assert_close(grid[3], everything, atol=1e-4, rtol=0)


def test_traversal_starts_with_the_image_and_follows_the_direction(model, image, z_T, generator):
    directions = principal_directions(torch.randn(50, 3, 2, generator=generator))
    grid = draw_traversal(model, image[:1], [2, 0], directions, (-1.0, 1.0), SAMPLER, z_T[:1])
    assert grid.shape == (2, 3, 3, 16, 16) and torch.equal(grid[1, 0], image[0])
    moved = traverse_code(model.encode(image[:1]), 2, directions, torch.tensor([-1.0, 1.0]))[0]
    expected = decode_code(model, moved, z_T[:1].expand(2, -1, -1, -1), SAMPLER)
    torch.testing.assert_close(grid[0, 1:], expected, atol=1e-4, rtol=0)
    assert label_amounts((-2.0, 0.0, 0.5)) == ["image", "-2 std", "mean", "+0.5 std"]


def test_reconstruction_rows_say_how_good_they_are(model, image, generator):
    grid, labels = draw_reconstruction(model, image, SamplerConfig("ddim", 20, 1.0), generator)
    assert grid.shape == (4, 3, 3, 16, 16) and torch.equal(grid[0], grid[1])
    assert labels[:2] == ["original", "first stage · 100.0 dB"]
    random, inferred = (float(label.split()[-2]) for label in labels[2:])
    assert inferred > random


def test_samples_depend_on_the_units_that_take_part(model, generator):
    code = torch.randn(4, 3, 2, generator=generator)

    def draw(units):
        return draw_samples(model, code, 16, SAMPLER, torch.Generator().manual_seed(0), units)

    assert draw(None).shape == (4, 3, 16, 16)
    torch.testing.assert_close(draw(None), draw([0, 1, 2]))
    assert not torch.allclose(draw(None), draw([1]), atol=1e-3)


def test_codes_of_scalar_units_gain_an_axis():
    assert stack_codes({"codes": np.zeros((5, 3))}).shape == (5, 3, 1)
    assert stack_codes({"codes": np.zeros((5, 3, 2))}).shape == (5, 3, 2)
