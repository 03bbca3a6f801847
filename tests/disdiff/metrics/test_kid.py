import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from disdiff.metrics.kid import compute_kid
from ldm.errors import UserError


def draw(seed, num=400, dims=8, shift=0.0):
    return np.random.default_rng(seed).normal(size=(num, dims)) + shift


def test_one_subset_of_everything_agrees_with_torchmetrics():
    a, b = draw(0, 50), draw(1, 50, shift=0.5)
    ours = compute_kid(a, b, seed=0, num_subsets=3, subset_size=50)
    expected = poly_mmd(torch.from_numpy(b), torch.from_numpy(a)).item()
    assert ours["score"] == pytest.approx(expected, rel=1e-9)
    assert ours["score_std"] == pytest.approx(0, abs=1e-9)  # every subset is all there is


def test_two_rows_by_hand():
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    expected = 3**3 + 1**3 - 2 * (1 + 2**3 + 1 + 3**3) / 4
    assert compute_kid(x, y, seed=0, num_subsets=1, subset_size=2)["score"] == pytest.approx(expected)


def test_equal_distributions_are_at_0_on_average_whatever_the_size():
    """Over 300 fresh pairs of 20 images the mean lies within 3 standard errors of 0; FIDs would not."""
    scores = [
        compute_kid(draw(2 * i, 20), draw(2 * i + 1, 20), seed=0, num_subsets=1, subset_size=20)["score"]
        for i in range(300)
    ]
    assert abs(np.mean(scores)) < 3 * np.std(scores) / 300**0.5
    assert min(scores) < 0


def test_a_shift_is_found_and_the_seed_decides_the_subsets():
    near, far = draw(1), draw(2, shift=0.5)
    same = compute_kid(draw(0), near, seed=0, num_subsets=20, subset_size=100)
    other = compute_kid(draw(0), far, seed=0, num_subsets=20, subset_size=100)
    assert other["score"] > same["score"] + 5 * same["score_std"]
    again, reseeded = (
        compute_kid(draw(0), near, seed=seed, num_subsets=20, subset_size=100) for seed in (0, 1)
    )
    assert again == same and reseeded["score"] != same["score"]


@pytest.mark.parametrize("options", [{"subset_size": 500}, {"subset_size": 1}, {"num_subsets": 0}])
def test_impossible_subsets_are_refused(options):
    with pytest.raises(UserError, match="400 images cannot give"):
        compute_kid(draw(0), draw(1), seed=0, **({"subset_size": 100} | options))


def test_a_score_below_0_says_that_it_may_be():
    rows = np.random.default_rng(0).normal(size=(60, 8))
    same = compute_kid(rows, rows, seed=0, num_subsets=20, subset_size=60)
    assert same["score"] < 0 and "unbiased" in same["note"]
    assert "note" not in compute_kid(rows + 1, rows, seed=0, num_subsets=2, subset_size=60)
