import json

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from disdiff.metrics.mig import compute_mig
from ldm.errors import UserError


def score(codes, factors, **changes):
    return compute_mig(codes, factors, **({"seed": 0, "num_train": 3_000} | changes))


def test_identity_codes_are_nearly_perfect(identity, factors):
    result = score(identity, factors)
    assert result["score"] > 0.99
    assert result["units"] == [0, 1, 2]


def test_independent_codes_score_nothing(independent, factors):
    assert score(independent, factors)["score"] < 0.02


def test_a_duplicated_code_closes_its_gap(identity, factors):
    gaps = score(identity[:, [0, 0, 1, 2]], factors)["gaps"]
    assert gaps[0] == 0.0
    assert min(gaps[1:]) > 0.99


def test_a_constant_code_knows_nothing(identity, factors):
    codes = np.column_stack([np.ones(len(identity)), identity])
    result = score(codes, factors)
    assert result["mutual_information"][0] == [0.0, 0.0, 0.0]
    assert result["score"] > 0.99


def test_a_missing_factor_costs_its_share(identity, factors):
    assert score(identity[:, :2], factors)["score"] == pytest.approx(2 / 3, abs=0.01)


def test_a_single_unit_has_no_rival(identity, factors):
    assert score(identity[:, :1], factors)["gaps"][0] == pytest.approx(1.0)


def test_agrees_with_scikit_learn_on_the_same_rows(rotated, factors):
    result = score(rotated, factors, num_train=2_000, seed=7)
    rows = np.random.RandomState(7).permutation(3_000)[:2_000]
    codes, labels = rotated[rows], factors[rows]
    expected = np.zeros((3, 3))
    for unit in range(3):
        edges = np.histogram(codes[:, unit], 20)[1][:-1]
        binned = np.digitize(codes[:, unit], edges)
        expected[unit] = [mutual_info_score(binned, labels[:, factor]) for factor in range(3)]
    np.testing.assert_allclose(result["mutual_information"], expected, atol=1e-10)
    entropy = np.array([mutual_info_score(labels[:, f], labels[:, f]) for f in range(3)])
    ranked = np.sort(expected, axis=0)[::-1]
    assert result["score"] == pytest.approx(((ranked[0] - ranked[1]) / entropy).mean(), abs=1e-6)
    json.dumps(result, allow_nan=False)


def test_fewer_rows_than_asked_are_refused(identity, factors):
    with pytest.raises(UserError, match="rows"):
        compute_mig(identity, factors, seed=0)


def test_a_gap_is_never_above_1():
    for seed in range(30):
        factors = np.random.default_rng(seed).integers(0, 7, (1_000, 2))
        result = compute_mig(factors[:, ::-1] * 1.0, factors, seed=0, num_train=1_000)
        single = compute_mig(factors[:, :1] * 1.0, factors[:, :1], seed=0, num_train=1_000)
        assert max(result["gaps"]) <= 1 and single["score"] <= 1 and single["score"] == pytest.approx(1)
