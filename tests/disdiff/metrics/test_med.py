import numpy as np
import pytest

from disdiff.metrics.dci import compute_disentanglement
from disdiff.metrics.med import compute_med


def score(codes, factors, **changes):
    return compute_med(codes, factors, **({"seed": 0, "num_train": 3_000} | changes))


def test_identity_codes_are_nearly_perfect(identity, factors):
    result = score(identity, factors)
    assert result["disentanglement"] > 0.97
    assert result["completeness"] > 0.97


def test_independent_and_rotated_codes_are_not(independent, rotated, factors):
    assert score(independent, factors)["disentanglement"] < 0.2
    assert score(rotated, factors)["disentanglement"] < 0.6


def test_importance_is_the_normalised_information(rotated, factors):
    importance = np.array(score(rotated, factors)["importance"])
    np.testing.assert_allclose(importance.sum(axis=0), 1.0)
    assert score(rotated, factors)["disentanglement"] == compute_disentanglement(importance)


def test_top_k_keeps_the_best_units_of_each_factor(identity, independent, factors):
    blend = identity[:, :1] + identity[:, 1:2]
    codes = np.column_stack([independent, identity[:, [0, 0, 1, 2]], blend, np.ones(3_000)])
    result = score(codes, factors, top_k=1)
    assert set(result["top_units"]) <= {3, 4, 5, 6}
    assert len(result["top_units"]) == 3
    assert result["top_disentanglement"] > result["disentanglement"]
    assert result["top_completeness"] > 0.97
    assert len(score(codes, factors, top_k=2)["top_units"]) > 3


def test_a_missing_factor_is_noise_of_full_weight(identity, factors):
    result = score(identity[:, :2], factors)
    assert np.sum(result["importance"], axis=0) == pytest.approx([1.0, 1.0, 1.0])
    assert result["disentanglement"] < 0.7
