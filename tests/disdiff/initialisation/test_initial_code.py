"""Coordinates that a code can start as: what was mixed linearly comes out unmixed."""

import math

import pytest
import torch

from disdiff.initialisation.bilinear import BilinearCoordinates, solve_modes
from disdiff.initialisation.circular import (
    HARMONICS,
    CircularCoordinates,
    find_loops,
    harmonics,
    thinnest_angle,
)
from disdiff.initialisation.linear_algebra import rotate_to_least_kurtosis
from disdiff.initialisation.principal import PrincipalComponents
from ldm.errors import UserError


@pytest.fixture(scope="module")
def world() -> dict[str, torch.Tensor]:
    """Two hues of ten values (one with a second harmonic) and a uniform number, mixed into 40 features."""
    generator = torch.Generator().manual_seed(0)
    hue = torch.randint(0, 10, (6000, 2), generator=generator) * (2 * math.pi / 10) + 0.2
    slide = torch.rand(6000, generator=generator, dtype=torch.double) * 2 - 1
    noise = 0.05 * torch.randn(6000, 2, generator=generator, dtype=torch.double)
    angle = hue.double() + noise
    sources = [angle.cos(), angle.sin(), 0.6 * (2 * angle[:, :1]).cos(), 0.8 * slide[:, None]]
    mixed = torch.cat(sources, dim=1) @ torch.randn(6, 40, generator=generator, dtype=torch.double)
    x = mixed + 0.02 * torch.randn(6000, 40, generator=generator, dtype=torch.double)
    return {"x": x.float(), "hue": hue, "slide": slide}


def fitted(kind: type[PrincipalComponents], x: torch.Tensor, count: int) -> PrincipalComponents:
    """Coordinates fitted to the first 4,000 rows."""
    coordinates = kind(x.shape[1], count)
    coordinates.fit(x[:4000])
    return coordinates


def test_loops_come_first_and_one_number_tells_a_hue(world: dict[str, torch.Tensor]) -> None:
    coordinates = fitted(CircularCoordinates, world["x"], 3)
    assert coordinates.is_loop.tolist() == [True, True, False]
    code = coordinates(world["x"])[4000:]
    for unit in range(2):
        spread = []
        for column in range(2):
            hue = world["hue"][4000:, column]
            within = [code[hue == value, unit].std() for value in hue.unique()]
            spread.append(float(torch.stack(within).max()))
        assert min(spread) < 0.1  # of one hue, all ten values are told apart (they lie 0.35 apart)
        assert max(spread) > 0.8  # and nothing of the other


def test_what_no_angle_explains_follows_without_echoes(world: dict[str, torch.Tensor]) -> None:
    code = fitted(CircularCoordinates, world["x"], 3)(world["x"])[:, 2].double()
    correlation = torch.corrcoef(torch.stack([code, world["slide"], (2 * world["hue"][:, 0]).cos().double()]))
    assert abs(correlation[0, 1]) > 0.98
    assert abs(correlation[0, 2]) < 0.05


@pytest.mark.parametrize("kind", [PrincipalComponents, CircularCoordinates, BilinearCoordinates])
def test_every_number_has_variance_one_and_survives_saving(
    kind: type[PrincipalComponents], world: dict[str, torch.Tensor]
) -> None:
    coordinates = fitted(kind, world["x"], 4)
    code = coordinates(world["x"])
    assert torch.allclose(code.std(dim=0), torch.ones(4), atol=0.06)
    again = kind(40, 4)
    again.load_state_dict(coordinates.state_dict())
    assert torch.equal(again(world["x"]), code)


@pytest.mark.parametrize("kind", [CircularCoordinates, BilinearCoordinates])
def test_an_angle_stays_finite_under_a_gradient(
    kind: type[PrincipalComponents], world: dict[str, torch.Tensor]
) -> None:
    x = world["x"][:64].clone().requires_grad_()
    fitted(kind, world["x"], 4)(x).square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.fixture(scope="module")
def tinted() -> dict[str, torch.Tensor]:
    """A hue, and a size whose effect on 40 features is one part fixed, one turning with the hue."""
    generator = torch.Generator().manual_seed(7)
    hue = torch.rand(6000, generator=generator, dtype=torch.double) * 1.9 * math.pi
    size = torch.rand(6000, generator=generator, dtype=torch.double) * 2 - 1
    sources = torch.stack(
        [hue.cos(), hue.sin(), 0.3 * size * hue.cos(), 0.3 * size * hue.sin(), 0.3 * size], 1
    )
    mixed = sources @ torch.randn(5, 40, generator=generator, dtype=torch.double)
    x = mixed + 0.02 * torch.randn(6000, 40, generator=generator, dtype=torch.double)
    return {"x": x.float(), "size": size}


def test_a_mode_is_the_same_at_every_angle(tinted: dict[str, torch.Tensor]) -> None:
    """A linear component of size sees it weakened and tinted at some hues; the bilinear model does not."""
    correlation = {}
    for kind in (CircularCoordinates, BilinearCoordinates):
        code = fitted(kind, tinted["x"], 2)(tinted["x"])[4000:, 1].double()
        correlation[kind] = abs(torch.corrcoef(torch.stack([code, tinted["size"][4000:]]))[0, 1])
    assert correlation[BilinearCoordinates] > 0.975
    assert correlation[CircularCoordinates] < 0.95


def test_modes_are_recovered_from_their_own_directions() -> None:
    generator = torch.Generator().manual_seed(5)
    mixing = 100 * torch.randn(3, 5, 30, generator=generator, dtype=torch.double)  # far above the ridge
    modes, series = (torch.randn(50, k, generator=generator, dtype=torch.double) for k in (3, 5))
    r = torch.einsum("bk,bm,kmp->bp", modes, series, mixing)
    assert torch.allclose(solve_modes(r, series, mixing), modes, atol=1e-3)


@pytest.mark.parametrize("kind", [CircularCoordinates, BilinearCoordinates])
def test_gaussian_data_hold_no_loop(kind: type[CircularCoordinates]) -> None:
    x = torch.randn(4000, 20, generator=torch.Generator().manual_seed(1))
    coordinates = fitted(kind, x, 5)
    assert not coordinates.is_loop.any()
    assert torch.allclose(coordinates(x).std(dim=0), torch.ones(5), atol=0.06)


def test_no_unit_is_left_when_loops_take_them_all(world: dict[str, torch.Tensor]) -> None:
    coordinates = fitted(BilinearCoordinates, world["x"], 2)
    assert coordinates.is_loop.all()
    assert torch.equal(coordinates(world["x"]), fitted(CircularCoordinates, world["x"], 2)(world["x"]))


def test_uncut_circle_is_a_loop_and_independent_columns_are_none() -> None:
    angle = torch.rand(5000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.double) * 2 * math.pi
    columns = torch.stack([angle[:, 0].cos(), angle[:, 1].cos(), angle[:, 0].sin()], dim=1)
    assert find_loops(columns) == [(0, 2)]


def test_rotation_unmixes_flat_variables() -> None:
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(8000, 3, generator=generator, dtype=torch.double) - 0.5) * 12**0.5
    mixing = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.double)).Q
    rotation = rotate_to_least_kurtosis(x @ mixing)
    assert torch.allclose(rotation.T @ rotation, torch.eye(3, dtype=torch.double), atol=1e-9)
    assert torch.allclose((mixing @ rotation).abs().max(dim=0).values, torch.ones(3).double(), atol=0.01)


def test_harmonics_are_ordered_by_order_then_angle() -> None:
    angle = torch.tensor([[0.3, -1.0]])
    series = harmonics(angle).view(2 * HARMONICS, 2)
    assert torch.allclose(series[1], (2 * angle[0]).cos())
    assert torch.allclose(series[HARMONICS + 2], (3 * angle[0]).sin())


def test_the_cut_is_in_the_gap() -> None:
    angle = torch.linspace(-math.pi, math.pi, 1000)
    angle = angle[(angle < 1.0) | (angle > 1.6)]
    assert abs(thinnest_angle(angle) - 1.3) < 0.2


def test_more_numbers_than_dimensions_are_refused() -> None:
    with pytest.raises(UserError, match="lower code.num_units or code.unit_dim"):
        PrincipalComponents(6, 8).fit(torch.randn(100, 6))
