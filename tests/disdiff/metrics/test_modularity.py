import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score

from disdiff.metrics.modularity import compute_explicitness, compute_modularity

SIZES = {"num_train": 2_000, "num_test": 1_000}


def modularity(codes, factors, **changes):
    return compute_modularity(codes, factors, **({"seed": 0, "num_train": 3_000} | changes))


def test_identity_and_duplicated_codes_are_modular(identity, factors):
    assert modularity(identity, factors)["score"] == pytest.approx(1.0, abs=1e-3)
    assert modularity(identity[:, [0, 0, 1]], factors)["score"] == pytest.approx(1.0, abs=1e-3)


def test_a_constant_code_counts_zero(identity, factors):
    result = modularity(np.column_stack([np.ones(3_000), identity]), factors)
    assert result["per_unit"][0] == 0.0
    assert result["score"] == pytest.approx(0.75, abs=1e-3)


def test_a_unit_that_is_the_sum_of_two_factors_is_not_modular():
    pair = np.random.default_rng(0).integers(0, 2, (3_000, 2))
    assert modularity((pair[:, :1] + pair[:, 1:]).astype(float), pair)["score"] < 0.05


def test_modularity_agrees_with_a_direct_computation(rotated, factors):
    result = modularity(rotated, factors, seed=4, num_train=2_000)
    rows = np.random.RandomState(4).permutation(3_000)[:2_000]
    per_unit = []
    for unit in rotated[rows].T:
        binned = np.digitize(unit, np.histogram(unit, 20)[1][:-1])
        squares = [mutual_info_score(binned, labels) ** 2 for labels in factors[rows].T]
        per_unit.append(1 - (sum(squares) - max(squares)) / (2 * max(squares)))
    np.testing.assert_allclose(result["per_unit"], per_unit, atol=1e-6)


def test_explicitness_of_identity_rotated_and_independent_codes(identity, rotated, independent, factors):
    binary = np.column_stack([factors > 1, factors > 0]).astype(int)
    assert compute_explicitness(binary.astype(float), binary, seed=0, **SIZES)["score"] == 1.0
    plain = compute_explicitness(identity, factors, seed=0, **SIZES)["score"]
    assert plain > 0.75
    assert compute_explicitness(rotated, factors, seed=0, **SIZES)["score"] == pytest.approx(plain, abs=0.01)
    assert compute_explicitness(independent, factors, seed=0, **SIZES)["score"] == pytest.approx(
        0.5, abs=0.03
    )


def test_explicitness_agrees_with_one_classifier_per_value(rotated, factors):
    codes = rotated * [1, 10, 0.1] + 3
    result = compute_explicitness(codes, factors, seed=2, **SIZES)
    rows = np.random.RandomState(2).permutation(3_000)
    train, test = rows[:2_000], rows[2_000:3_000]
    codes = (codes - codes[train].mean(axis=0)) / codes[train].std(axis=0)
    for factor, expected in enumerate(result["per_factor"]):
        labels = factors[:, factor]
        values = np.unique(labels)
        models = [LogisticRegression().fit(codes[train], labels[train] == value) for value in values]
        probability = np.stack([model.predict_proba(codes[test])[:, 1] for model in models], axis=1)
        probability /= probability.sum(axis=1, keepdims=True)
        aurocs = [roc_auc_score(labels[test] == v, p) for v, p in zip(values, probability.T, strict=True)]
        assert expected == pytest.approx(np.mean(aurocs), abs=1e-3)
