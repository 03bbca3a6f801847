import numpy as np
import pytest
import torch

from ldm.data import procedural_nonlinear
from ldm.data.procedural import NUM_GEOMETRIES, ProceduralShapes3D, hue_to_rgb
from ldm.data.procedural_nonlinear import LAMP, SKY, NonlinearShapes3D, albedos, tone
from ldm.data.shapes3d import SHAPES3D

BASE = torch.tensor([3, 4, 7, 5, 1, 6])  # an upright cylinder of middle size
FLOOR, WALL, OBJECT = range(3)


@pytest.fixture(scope="module")
def source():
    return NonlinearShapes3D()


@pytest.fixture(scope="module")
def maps(source):
    """Of the geometry of `BASE`: seen at all, per material and pixel, and the whole array."""
    maps = source.maps(SHAPES3D.index(BASE[None]) % NUM_GEOMETRIES)[0]
    return maps[:12].view(4, 3, 64, 64).sum(dim=0) > 0, maps


def draw(source, **changes):
    factors = BASE.clone()
    for name, value in changes.items():
        factors[SHAPES3D.names.index(name.replace("_", " "))] = value
    return source.images(SHAPES3D.index(factors[None]))[0].double()


def test_a_pixel_follows_from_the_formula(source, maps):
    """Channel by channel, without tensors."""
    image, array = draw(source), maps[1].double().tolist()
    colours = [albedos()[surface, BASE[surface]].double().tolist() for surface in range(3)]
    for row, column in ((20, 8), (50, 12), (35, 32), (33, 30), (60, 60)):
        for channel in range(3):
            at = [part[row][column] for part in array]
            light = 0.0
            for surface in range(3):
                c = colours[surface][channel]
                plain = LAMP[channel] * at[surface] + SKY[channel] * at[3 + surface]
                dark = LAMP[channel] * at[6 + surface] + SKY[channel] * at[9 + surface]
                light += plain * c + dark * c * c / 2
            light += LAMP[channel] * (at[12] * colours[OBJECT][channel] * colours[FLOOR][channel] + at[13])
            level = 255 * (1 - np.exp(-1.7 * light)) ** (1 / 1.6)
            assert image[channel, row, column] == pytest.approx(level, abs=0.51)


@pytest.mark.parametrize(
    ("name", "lit"),
    [("floor hue", (FLOOR, OBJECT)), ("wall hue", (WALL,)), ("object hue", (OBJECT,))],
)
def test_a_hue_changes_its_surface_alone(source, maps, name, lit):
    """The floor also throws its light at the object."""
    seen, _ = maps
    changed = (draw(source) != draw(source, **{name: 9})).any(dim=0)
    touched = seen[list(lit)].any(dim=0)
    assert not changed[~touched].any() and changed[seen[lit[0]]].double().mean() > 0.95


def test_geometry_is_that_of_the_linear_rendering(source, maps):
    linear = ProceduralShapes3D().maps(SHAPES3D.index(BASE[None]) % NUM_GEOMETRIES)[0]
    assert torch.equal(maps[0], linear[:3] > 0)


def test_every_pixel_of_every_shape_is_lit(source):
    small = torch.tensor([[3, 4, 7, 0, shape, 14 * (shape % 2)] for shape in range(4)])
    assert (source.images(SHAPES3D.index(small)).amax(dim=1) > 0).all()


def interaction(source):
    """How far the images are from a sum of a floor part and an object part, in levels of a pixel."""
    parts = [draw(source, floor_hue=f, object_hue=o) for f, o in ((0, 0), (5, 5), (0, 5), (5, 0))]
    return float((parts[0] + parts[1] - parts[2] - parts[3]).abs().max())


def residual(source, colours, row, column):
    """Of a regression of a floor pixel's levels on the colour of the floor, with an intercept."""
    levels = torch.stack([draw(source, floor_hue=hue)[:, row, column] for hue in range(10)])
    inputs = torch.cat([colours.double(), torch.ones(10, 1)], dim=1)
    return float((inputs @ torch.linalg.lstsq(inputs, levels).solution - levels).abs().max())


def test_is_not_linear_in_colours_as_the_other_rendering_is(source):
    linear = ProceduralShapes3D()
    assert interaction(linear) <= 2 and interaction(source) > 10  # 2: rounding
    assert residual(linear, hue_to_rgb(10), 55, 10) < 1
    assert residual(source, albedos()[FLOOR], 55, 10) > 5


def test_hues_are_in_three_random_orders():
    for order in albedos():
        assert torch.equal(order.unique(dim=0), hue_to_rgb(10).unique(dim=0))
        assert not torch.equal(order, hue_to_rgb(10))
    assert len(albedos().unique(dim=0)) == 3


def test_the_tone_curve_is_monotonous_and_bounded():
    curve = tone(torch.linspace(0, 20, 500))
    assert curve[0] == 0 and (curve.diff() >= 0).all() and curve.max() <= 1


def test_is_deterministic_and_named(source):
    index = torch.tensor([0, 479_999, int(SHAPES3D.index(BASE[None]))])
    again = NonlinearShapes3D()
    assert torch.equal(source.images(index), torch.cat([again.images(i[None]) for i in index]))
    assert torch.equal(source.factors(index), SHAPES3D.factors(index)) and len(source) == 480_000
    assert source.procedural and source.name == "shapes3d_nonlinear" != ProceduralShapes3D.name
    assert source.identity != ProceduralShapes3D.identity and "not linear" in source.preparation
    assert procedural_nonlinear.NUM_HUES == 10
