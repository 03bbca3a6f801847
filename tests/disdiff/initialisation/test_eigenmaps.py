"""Slow coordinates: factors that bend the data come out one by one."""

import math

import pytest
import torch

from disdiff.initialisation.bilinear import BilinearCoordinates
from disdiff.initialisation.eigenmaps import (
    EigenmapCoordinates,
    choose_coordinates,
    explained_by_rank,
    find_neighbours,
    find_slow_functions,
)
from ldm.errors import UserError

COUNT = 4000


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.fixture(scope="module")
def bent() -> dict[str, torch.Tensor]:
    """A hue, and two numbers whose images wave up and down on their way, in 40 features.

    One way is not twice as long as the other: then its first harmonic would be as slow, and mix with it.
    """
    hue, far, near = draw(0, 3, COUNT)
    turn = 2 * math.pi * hue
    sources = torch.stack(
        [
            2 * turn.cos(),
            2 * turn.sin(),
            2 * far,
            0.6 * (3 * math.pi * far).cos(),
            2.4 * near,
            (2 * math.pi * near).cos() / 4,
        ],
        dim=1,
    )
    x = sources @ torch.linalg.qr(draw(1, 40, 6) - 0.5).Q.T + 0.02 * (draw(2, COUNT, 40) - 0.5)
    return {"x": x.float(), "hue": hue, "far": far, "near": near}


@pytest.fixture(scope="module")
def fitted(bent: dict[str, torch.Tensor]) -> EigenmapCoordinates:
    coordinates = EigenmapCoordinates(40, 5)
    coordinates.fit(bent["x"][:3000])
    return coordinates


def test_each_bent_factor_gets_one_coordinate(
    bent: dict[str, torch.Tensor], fitted: EigenmapCoordinates
) -> None:
    code = fitted(bent["x"])[3000:].double()
    assert fitted.is_loop.tolist() == [True, False, False, False, False]
    assert count_units_of(bent, code) == [1, 1]
    linear = BilinearCoordinates(40, 5)
    linear.fit(bent["x"][:3000])
    assert count_units_of(bent, linear(bent["x"])[3000:].double()) == [2, 2]


def count_units_of(bent: dict[str, torch.Tensor], code: torch.Tensor) -> list[int]:
    """How many numbers of a code (n, 5) are a function of the one and of the other factor alone."""
    told = [[explained_by_rank(x, bent[name][3000:]) for name in ("far", "near")] for x in code[:, 1:].T]
    assert all(sum(pair) < 1.05 and min(pair) < 0.1 for pair in told)
    assert all(max(pair) > 0.95 for pair in told[:2])  # the others fill units for which there is no factor
    return [sum(pair[i] > 0.95 for pair in told) for i in range(2)]


def test_every_number_has_variance_one_and_survives_saving(
    bent: dict[str, torch.Tensor], fitted: EigenmapCoordinates
) -> None:
    code = fitted(bent["x"])
    assert torch.allclose(code.std(dim=0), torch.ones(5), atol=0.06)
    again = EigenmapCoordinates(40, 5)
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again(bent["x"]), code)
    repeated = EigenmapCoordinates(40, 5)
    repeated.fit(bent["x"][:3000])
    assert torch.equal(repeated(bent["x"]), code)


def test_coordinates_stay_finite_far_away_and_under_a_gradient(
    bent: dict[str, torch.Tensor], fitted: EigenmapCoordinates
) -> None:
    x = torch.cat([bent["x"][:64], 100 * bent["x"][:64], torch.zeros(1, 40)]).requires_grad_()
    code = fitted(x)
    code.square().sum().backward()
    assert code.isfinite().all() and x.grad.isfinite().all()
    assert code.detach().abs().max() < 10


@pytest.mark.parametrize(("images", "features", "units"), [(60, 12, 10), (300, 60, 50)])
def test_more_units_than_coordinates_are_filled_with_what_is_left(
    images: int, features: int, units: int
) -> None:
    x = (draw(3, images, features) - 0.5).float()
    coordinates = EigenmapCoordinates(features, units)
    coordinates.fit(x)
    assert torch.allclose(coordinates(x).std(dim=0), torch.ones(units), atol=0.1)


def test_no_unit_is_left_when_loops_take_them_all(bent: dict[str, torch.Tensor]) -> None:
    coordinates = EigenmapCoordinates(40, 1)
    coordinates.fit(bent["x"][:1000])
    assert coordinates.is_loop.all() and torch.equal(
        coordinates(bent["x"]), coordinates.modes(bent["x"])[:, :1]
    )


def test_too_few_inputs_are_refused() -> None:
    with pytest.raises(UserError, match="more than 17 images, got 15"):
        EigenmapCoordinates(40, 5).fit(torch.randn(15, 40))


def test_slow_functions_of_an_interval_are_its_cosines() -> None:
    s = torch.linspace(0, 1, 2000, dtype=torch.double)
    functions = find_slow_functions(*find_neighbours(s[:, None]), 5)
    for order in (1, 2, 3):
        cosine = (order * math.pi * s).cos()
        assert torch.stack([functions[:, order - 1], cosine]).corrcoef()[0, 1].abs() > 0.999


def test_the_slowest_function_tells_clusters_apart() -> None:
    u = draw(5, 300, 2) + 100 * (torch.arange(300) % 2)[:, None]
    function = find_slow_functions(*find_neighbours(u), 5)[:, 0]
    assert function[::2].std() < 1e-6 and function[1::2].std() < 1e-6
    assert (function[0] - function[1]).abs() > 1.9


def test_harmonics_products_and_functions_of_an_angle_are_no_coordinates() -> None:
    a, b, angle = math.pi * draw(6, 3, 3000)
    functions = torch.stack(
        [
            a.cos(),
            (2 * a).cos(),
            (4 * angle).cos(),
            b.cos(),
            a.cos() * b.cos(),
            a.cos() * (2 * angle).sin(),
            draw(7, 3000),
        ],
        dim=1,
    )
    functions = (functions - functions.mean(dim=0)) / functions.std(dim=0)
    assert choose_coordinates(functions, 2 * angle[:, None], 3) == [0, 3, 6]
    none = angle[:, None][:, :0]
    assert choose_coordinates(functions, none, 3) == [0, 2, 3]
    assert choose_coordinates(functions[:, :3], none, 3)[:2] == [0, 2]  # filled with what is left
