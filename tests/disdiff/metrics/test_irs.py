import numpy as np
import pytest

from disdiff.metrics.irs import compute_irs


def score(codes, factors, **changes):
    return compute_irs(codes, factors, **({"seed": 0, "num_train": 3_000} | changes))


def test_identity_codes_are_fully_robust(identity, factors):
    result = score(identity, factors)
    assert result["score"] == 1.0
    assert result["parents"] == [0, 1, 2]


def test_independent_codes_are_hardly_robust(independent, factors):
    assert score(independent, factors)["score"] < 0.4


def test_rotated_codes_are_less_robust_and_duplicates_cost_nothing(rotated, identity, factors):
    assert score(rotated, factors)["score"] < 0.6
    assert score(identity[:, [0, 0, 1]], factors)["score"] == 1.0


def test_constant_codes_are_left_out(identity, factors):
    result = score(np.column_stack([np.ones(3_000), identity]), factors)
    assert (result["num_active"], result["parents"][0], result["score"]) == (3, None, 1.0)


def test_agrees_with_a_loop_over_values(rotated, factors):
    result = score(rotated, factors, seed=1, num_train=2_000, quantile=0.9)
    rows = np.random.RandomState(1).permutation(3_000)[:2_000]
    codes, labels = rotated[rows], factors[rows]
    largest = np.abs(codes - codes.mean(axis=0)).max(axis=0)
    matrix = np.zeros((3, 3))
    for unit in range(3):
        for factor in range(3):
            quantiles = []
            for value in np.unique(labels[:, factor]):
                group = codes[labels[:, factor] == value, unit]
                quantiles.append(np.quantile(np.abs(group - group.mean()), 0.9))
            matrix[unit, factor] = 1 - np.mean(quantiles) / largest[unit]
    np.testing.assert_allclose(result["robustness"], matrix, atol=1e-9)
    assert result["score"] == pytest.approx((matrix.max(axis=1) * largest).sum() / largest.sum(), abs=1e-6)


def test_factors_of_many_values_are_binned_as_in_the_reference():
    factors = np.random.default_rng(0).integers(0, 60, (3_000, 1))
    codes = factors.astype(float)
    assert score(codes, factors, num_bins=60)["score"] == pytest.approx(1.0)
    assert score(codes, factors)["score"] < 1.0


def test_units_constant_but_for_rounding_are_not_active(identity, factors):
    codes = np.column_stack([identity, np.full(3_000, 0.1), np.where(factors[:, 0] > 1, 0.3, 0.1 + 0.2)])
    result = score(codes, factors)
    assert (result["num_active"], result["parents"]) == (3, [0, 1, 2, None, None])
    assert result["robustness"][3:] == [[0.0] * 3] * 2 and result["score"] == 1.0
