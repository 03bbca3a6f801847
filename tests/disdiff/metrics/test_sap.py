import numpy as np
import pytest
from sklearn.svm import LinearSVC

from disdiff.metrics.sap import compute_sap
from ldm.errors import UserError

SIZES = {"num_train": 1_500, "num_test": 1_000}


def score(codes, factors, seed=0):
    return compute_sap(codes, factors, seed=seed, **SIZES)


def test_identity_codes_of_binary_factors_have_the_largest_gap(factors):
    binary = np.random.default_rng(0).integers(0, 2, (3_000, 3))
    assert score(binary.astype(float), binary)["score"] == pytest.approx(0.5, abs=0.04)
    assert score(factors.astype(float), factors)["score"] > 0.2


def test_independent_and_duplicated_codes_have_none(independent, identity, factors):
    assert score(independent, factors)["score"] < 0.05
    gaps = score(identity[:, [0, 0, 1, 2]], factors)["gaps"]
    assert gaps[0] == 0.0
    assert gaps[1] > 0.2


def test_rotated_codes_score_less_than_identity(rotated, identity, factors):
    assert score(rotated, factors)["score"] < score(identity, factors)["score"]


def test_a_constant_code_is_no_better_than_one_class(identity, factors):
    accuracy = score(np.column_stack([np.ones(3_000), identity]), factors)["accuracy"]
    assert max(accuracy[0]) < 0.4


def test_agrees_with_the_dual_solver_on_the_same_rows(rotated, factors):
    result = score(rotated, factors, seed=3)
    rows = np.random.RandomState(3).permutation(3_000)[:2_500]
    train, test = rows[:1_500], rows[1_500:]
    for unit in range(3):
        for factor in range(3):
            model = LinearSVC(C=0.01, class_weight="balanced", dual=True, max_iter=20_000, random_state=0)
            model.fit(rotated[train, unit : unit + 1], factors[train, factor])
            expected = model.score(rotated[test, unit : unit + 1], factors[test, factor])
            assert result["accuracy"][unit][factor] == pytest.approx(expected, abs=1e-3)


def test_fewer_rows_than_asked_are_refused(identity, factors):
    with pytest.raises(UserError, match="rows"):
        compute_sap(identity, factors, seed=0)
