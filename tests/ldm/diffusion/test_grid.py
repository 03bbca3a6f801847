import pytest
import torch

from ldm.diffusion.grid import log_snr_grid, time_grid, walk
from ldm.diffusion.schedule import CLEAN
from ldm.errors import UserError


@pytest.mark.parametrize("num_steps", [2, 3, 7, 50, 333, 999, 1000])
def test_grids_fall_from_the_noisiest_step_to_the_cleanest(schedule, num_steps):
    for grid in (time_grid(1000, num_steps), log_snr_grid(schedule, num_steps)):
        assert grid.shape == (num_steps,) and grid.dtype == torch.int64
        assert grid[0] == 999 and grid[-1] == 0 and (grid.diff() < 0).all()


def test_one_step_starts_from_noise(schedule):
    assert time_grid(1000, 1).tolist() == log_snr_grid(schedule, 1).tolist() == [999]


def test_spacings_are_even(schedule):
    assert set(time_grid(1000, 50).diff().tolist()) <= {-20, -21}
    lambdas = torch.tensor([schedule.level(step).log_snr for step in log_snr_grid(schedule, 8).tolist()])
    torch.testing.assert_close(lambdas.diff(), lambdas.diff().mean().expand(7), atol=0.15, rtol=0)


def test_impossible_numbers_of_steps_are_refused(schedule):
    for num_steps in (-1, 0, 1001):
        with pytest.raises(UserError, match="from 1 to"):
            time_grid(1000, num_steps)
        with pytest.raises(UserError, match="from 1 to"):
            log_snr_grid(schedule, num_steps)


def test_walk_ends_at_the_clean_latent_and_returns_the_same_way(schedule):
    z, grid = torch.zeros(3, 2), torch.tensor([999, 400, 0])
    down = list(walk(schedule, grid, z))
    up = list(walk(schedule, grid, z, upwards=True))
    assert [t.tolist() for t, _, _ in down] == [[999] * 3, [400] * 3, [0] * 3]
    assert all(t.dtype == torch.int64 for t, _, _ in down)
    assert [there for _, _, there in down] == [schedule.level(step) for step in (400, 0, CLEAN)]
    assert [jump[1:] for jump in up] == [jump[1:] for jump in down[::-1]]
