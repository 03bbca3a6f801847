"""Modes whose direction turns with an angle: what they say is the same at every angle."""

import math

import pytest
import torch

from disdiff.initialisation.angle_modes import AngleModes, joint_series, turning_series
from disdiff.initialisation.principal import PrincipalComponents

COUNT = 4000


@pytest.fixture(scope="module")
def world() -> dict[str, torch.Tensor]:
    """Two hues, and two contents that are seen through them, in 60 features."""
    random = torch.Generator().manual_seed(0)
    hue, other, wide, narrow = torch.rand(4, COUNT, generator=random, dtype=torch.double)
    angle = 2 * math.pi * torch.stack([hue, other], dim=1)
    colour, content = turning_series(angle), torch.stack([wide, 0.5 * narrow], dim=1) - 0.5

    def mix(x: torch.Tensor) -> torch.Tensor:
        return x @ torch.randn(x.shape[1], 60, generator=random, dtype=torch.double)

    seen = sum(content[:, [k]] * mix(colour) for k in range(2))
    hues = angle[:, 0].cos() * angle[:, 1].sin()  # what two hues say together
    x = 4 * mix(torch.cat([angle.cos(), angle.sin()], dim=1)) + seen + mix(hues[:, None])
    return {"x": x.float(), "angle": angle, "wide": wide, "narrow": narrow}


def fitted(kind: type, world: dict[str, torch.Tensor], count: int) -> PrincipalComponents:
    coordinates = kind(60, count)
    coordinates.fit(world["x"][:3000])
    return coordinates


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.stack([a.double(), b.double()]).corrcoef()[0, 1].abs().item()


def test_a_mode_means_the_same_at_every_angle(world: dict[str, torch.Tensor]) -> None:
    modes = fitted(AngleModes, world, 4)
    assert modes.is_loop.tolist() == [True, True, False, False]
    code = modes(world["x"])[3000:]
    for k, name in ((2, "wide"), (3, "narrow")):
        truth, angle = world[name][3000:], world["angle"][3000:]
        assert correlation(code[:, k], truth) > 0.95
        for turned in angle.T:  # also where the hue is on the other side
            for side in (turned.cos() > 0.5, turned.cos() < -0.5):
                assert correlation(code[side, k], truth[side]) > 0.93


def test_more_modes_than_contents_leave_the_first_alone(world: dict[str, torch.Tensor]) -> None:
    code = fitted(AngleModes, world, 8)(world["x"])[3000:]
    assert correlation(code[:, 2], world["wide"][3000:]) > 0.95
    assert code[:, 4:].std(dim=0).max() < 0.7 * code[:, 3].std()  # and have little to say


def test_modes_come_in_order_and_with_their_size(world: dict[str, torch.Tensor]) -> None:
    modes = fitted(AngleModes, world, 4)
    code = modes(world["x"])
    assert code[:, 2].std() > code[:, 3].std() > 0.1
    assert code[:, 2:].mean(dim=0).abs().max() < 0.1


def test_they_survive_saving_and_repeat(world: dict[str, torch.Tensor]) -> None:
    modes = fitted(AngleModes, world, 5)
    again = AngleModes(60, 5)
    again.load_state_dict(modes.state_dict())
    assert torch.equal(again(world["x"]), modes(world["x"]))
    assert torch.equal(fitted(AngleModes, world, 5)(world["x"]), modes(world["x"]))


def test_without_loops_the_modes_are_principal_components() -> None:
    scale = torch.linspace(3, 1, 12)
    x = torch.randn(2000, 12, generator=torch.Generator().manual_seed(1)) * scale
    x = x @ torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(2))).Q
    modes, plain = AngleModes(12, 3), PrincipalComponents(12, 3)
    modes.fit(x)
    plain.fit(x)
    assert not modes.is_loop.any()
    assert all(correlation(a, b) > 0.95 for a, b in zip(modes(x).T, plain(x).T, strict=True))


def test_the_joint_series_is_a_basis_of_products() -> None:
    angle = torch.tensor([[0.3, 1.1]], dtype=torch.double)
    series = joint_series(angle)[0]
    assert len(series) == 1 + 2 * 2 * 5 + 4 * 4
    for value in (1.0, math.cos(0.3), math.sin(5 * 1.1), math.cos(0.6) * math.sin(1.1)):
        assert (series - value).abs().min() < 1e-12
    assert joint_series(angle[:, :1]).shape == (1, 11)
