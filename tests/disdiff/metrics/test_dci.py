from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.tree import DecisionTreeRegressor

from disdiff.metrics._boosting import ParallelGradientBoosting
from disdiff.metrics.dci import compute_completeness, compute_dci, compute_disentanglement
from ldm.errors import UserError

SIZES = {"num_train": 400, "num_test": 200, "estimator": "gradient_boosting_20_rounds"}


def score(codes, factors, seed=0, **changes):
    return compute_dci(codes, factors, seed=seed, **(SIZES | changes))


def entropy(share):
    share = share[share > 0]
    return -(share * np.log(share)).sum()


def test_identity_codes_are_perfect(identity, factors):
    result = score(identity, factors)
    for key in ("disentanglement", "completeness", "informativeness", "informativeness_train"):
        assert result[key] == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(result["importance"], np.eye(3), atol=1e-9)


def test_independent_codes_are_not(independent, factors):
    result = score(independent, factors)
    assert result["disentanglement"] < 0.05
    assert result["informativeness"] == pytest.approx(np.mean([1 / 4, 1 / 3, 1 / 5]), abs=0.08)


def test_rotated_codes_are_informative_but_entangled(rotated, factors):
    result = score(rotated, factors)
    assert result["informativeness"] > 0.8
    assert result["disentanglement"] < 0.7


def test_a_duplicated_code_costs_completeness_only(identity, factors):
    result = score(identity[:, [0, 0, 1, 2]], factors)
    assert result["disentanglement"] == pytest.approx(1.0, abs=1e-6)
    assert result["completeness"] < 0.95


def test_a_constant_code_has_no_importance(identity, factors):
    result = score(np.column_stack([np.ones(len(identity)), identity]), factors)
    assert result["importance"][0] == [0.0, 0.0, 0.0]
    assert result["disentanglement"] == pytest.approx(1.0, abs=1e-6)


def test_a_missing_factor_costs_informativeness(identity, factors):
    accuracy = score(identity[:, :2], factors)["accuracy"]
    assert accuracy[:2] == [1.0, 1.0]
    assert accuracy[2] < 0.35


@pytest.mark.parametrize("kind", ["mixed", "duplicated", "discrete", "binary"])
def test_importances_and_accuracies_are_exactly_scikit_learns(kind, rotated, identity, factors):
    noisy = rotated + np.random.default_rng(3).normal(size=rotated.shape) * 0.2
    codes = {"duplicated": noisy[:, [0, 0, 1, 1]], "discrete": identity[:, [0, 0, 1]]}.get(kind, noisy)
    labels = factors // 2 if kind == "binary" else factors
    result = score(codes, labels, seed=3, num_workers=3)
    rows = np.random.RandomState(3).permutation(len(codes))[:600]
    for factor in range(3):
        model = GradientBoostingClassifier(n_estimators=20, random_state=3)
        model.fit(codes[rows[:400]], labels[rows[:400], factor])
        assert np.array(result["importance"])[:, factor].tolist() == model.feature_importances_.tolist()
        assert result["accuracy"][factor] == model.score(codes[rows[400:]], labels[rows[400:], factor])


@pytest.mark.parametrize("kind", ["mixed", "duplicated", "discrete", "binary"])
def test_presorted_columns_change_no_prediction_and_importances_by_rounding(
    kind, rotated, factors, monkeypatch
):
    monkeypatch.setattr("disdiff.metrics._boosting.PRESORT_FROM", 0)
    noisy = rotated + np.random.default_rng(3).normal(size=rotated.shape) * 0.2
    codes = {"duplicated": noisy[:, [0, 0, 1]], "discrete": np.round(noisy)}.get(kind, noisy)
    labels = factors // 2 if kind == "binary" else factors
    result = score(codes, labels, seed=3)
    rows = np.random.RandomState(3).permutation(len(codes))[:600]
    for factor in range(3):
        model = GradientBoostingClassifier(n_estimators=20, random_state=3)
        model.fit(codes[rows[:400]], labels[rows[:400], factor])
        importance = np.array(result["importance"])[:, factor]
        np.testing.assert_allclose(importance, model.feature_importances_, rtol=0, atol=1e-12)
        assert result["accuracy"][factor] == model.score(codes[rows[400:]], labels[rows[400:], factor])


def test_trees_of_many_rows_are_grown_presorted(rotated, factors, monkeypatch):
    """From the size on where it pays: splits and leaves bit for bit those of scikit-learn."""
    codes = rotated + np.random.default_rng(3).normal(size=rotated.shape) * 0.2
    fits, fit = [], DecisionTreeRegressor.fit
    monkeypatch.setattr("disdiff.metrics._boosting.PRESORT_FROM", 3_000)
    with ThreadPoolExecutor(2) as executor:
        ours = ParallelGradientBoosting(executor, n_estimators=4)
        monkeypatch.setattr(
            DecisionTreeRegressor, "fit", lambda *a, **k: fits.append(len(a[1])) or fit(*a, **k)
        )
        ours.fit(codes, factors[:, 2])
        monkeypatch.setattr(DecisionTreeRegressor, "fit", fit)
    theirs = GradientBoostingClassifier(n_estimators=4, random_state=0).fit(codes, factors[:, 2])
    assert sum(size == 3_000 for size in fits) < 5  # of 20 trees
    for tree, expected in zip(ours.estimators_.ravel(), theirs.estimators_.ravel(), strict=True):
        tree, expected = tree.tree_, expected.tree_
        leaf = expected.feature < 0
        assert tree.feature.tolist() == expected.feature.tolist()
        assert tree.threshold.tolist() == expected.threshold.tolist()
        assert tree.value[leaf].tolist() == expected.value[leaf].tolist()
    assert ours.predict_proba(codes).tolist() == theirs.predict_proba(codes).tolist()


@pytest.mark.slow
def test_paper_settings_are_scikit_learns_defaults(rotated, factors):
    codes = rotated + np.random.default_rng(3).normal(size=rotated.shape) * 0.2
    result = score(codes, factors, estimator="gradient_boosting", num_train=2_000, num_test=1_000)
    rows = np.random.RandomState(0).permutation(len(codes))[:2_000]
    model = GradientBoostingClassifier(random_state=0).fit(codes[rows], factors[rows, 2])
    assert np.array(result["importance"])[:, 2].tolist() == model.feature_importances_.tolist()


def test_scores_of_a_known_matrix():
    importance = np.array([[0.8, 0.2, 0.0], [0.2, 0.8, 0.5]])
    rows = importance / importance.sum(axis=1, keepdims=True)
    columns = importance / importance.sum(axis=0)
    expected_d = sum(
        w * (1 - entropy(p) / np.log(3)) for w, p in zip((1 / 2.5, 1.5 / 2.5), rows, strict=True)
    )
    expected_c = sum(
        w * (1 - entropy(p) / np.log(2)) for w, p in zip((0.4, 0.4, 0.2), columns.T, strict=True)
    )
    assert compute_disentanglement(importance) == pytest.approx(expected_d, abs=1e-9)
    assert compute_completeness(importance) == pytest.approx(expected_c, abs=1e-9)


def test_scores_of_extreme_matrices():
    assert compute_disentanglement(np.eye(4)) == compute_completeness(np.eye(4)) == pytest.approx(1, abs=1e-8)
    assert compute_disentanglement(np.ones((4, 3))) == pytest.approx(0, abs=1e-8)
    assert compute_disentanglement(np.zeros((4, 3))) == pytest.approx(0, abs=1e-8)
    assert compute_completeness(np.ones((1, 3))) == compute_disentanglement(np.ones((3, 1))) == 1.0


def test_workers_do_not_change_the_result_and_progress_reaches_one(rotated, factors):
    shares = []
    one = score(rotated, factors, num_workers=1, progress=shares.append)
    assert one == score(rotated, factors, num_workers=4)
    assert len(shares) == 60
    assert max(shares) == 1.0


def test_another_estimator_has_its_own_name(rotated, factors):
    result = score(rotated, factors, estimator="random_forest")
    assert result["estimator"] == "random_forest"
    assert result["settings"] == {"model": "sklearn.RandomForestClassifier, defaults"}
    with pytest.raises(UserError, match="estimator=gbt is unknown"):
        score(rotated, factors, estimator="gbt")


def test_a_factor_that_the_training_rows_do_not_vary_is_named(identity, factors):
    rare = factors.copy()
    rare[:, 1] = 0
    rare[np.random.RandomState(0).permutation(3_000)[-1], 1] = 1
    with pytest.raises(UserError, match=r"single value in column\(s\) \[1\] of the 400 training rows"):
        score(identity, rare)


def test_fewer_rows_than_asked_are_refused(identity, factors):
    with pytest.raises(UserError, match="codes have 3000 rows but 15000 are needed"):
        compute_dci(identity, factors, seed=0)
