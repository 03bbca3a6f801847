import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from disdiff.metrics._information import compute_entropy, compute_mutual_information, discretise


def test_bins_are_equal_in_width_and_hold_both_ends():
    codes = np.array([[0.0], [0.049], [0.051], [0.5], [0.999], [1.0]])
    assert discretise(codes)[:, 0].tolist() == [0, 0, 1, 10, 19, 19]
    assert len(set(discretise(np.ones((5, 1)))[:, 0])) == 1


def test_information_agrees_with_scikit_learn():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 7, 500), random.integers(0, 4, 500)
    second[first > 4] = 3
    assert compute_mutual_information(first, second) == pytest.approx(
        mutual_info_score(first, second), abs=1e-12
    )
    assert compute_entropy(first) == pytest.approx(mutual_info_score(first, first), abs=1e-12)


def test_information_about_a_constant_is_zero():
    assert compute_mutual_information(np.arange(10), np.zeros(10, dtype=int)) == 0.0


def test_a_column_constant_but_for_rounding_fills_one_bin():
    """numpy refuses to cut such a range into bins."""
    jitter = np.tile([0.3, 0.1 + 0.2], 10)
    for column in (jitter, -1e6 * jitter, np.tile([1.0, np.nextafter(1.0, 2)], 10)):
        assert not discretise(column[:, None], 100).any()


def test_a_constant_column_has_no_information():
    for seed in range(20):
        column = np.random.default_rng(seed).integers(0, 7, 1_000)
        assert compute_mutual_information(column, np.zeros_like(column)) == 0
        assert compute_entropy(column) > 0 and compute_entropy(np.zeros_like(column)) == 0
