import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mutual_info_score

from disdiff.metrics.infomec import compute_infomec


def score(codes, factors, seed=0):
    return compute_infomec(codes, factors, seed=seed, num_train=1_000)


@pytest.fixture(scope="module")
def jittered(identity):
    """Identity codes made continuous, as the nearest-neighbour estimate expects."""
    return identity + np.random.default_rng(5).uniform(-0.1, 0.1, identity.shape)


def test_identity_codes_are_modular_and_compact(jittered, factors):
    result = score(jittered, factors)
    assert result["infom"] > 0.9
    assert result["infoc"] > 0.9
    assert result["active"] == [0, 1, 2]


def test_linearly_readable_factors_are_explicit(factors):
    binary = (factors[:, :2] > 0).astype(int)
    assert score(binary + 0.0, binary)["infoe"] > 0.99
    assert score(np.random.default_rng(0).normal(size=(3_000, 2)), binary)["infoe"] < 0.02


def test_rotated_codes_are_neither_modular_nor_compact(rotated, factors):
    result = score(rotated, factors)
    assert result["infom"] < 0.7
    assert result["infoc"] < 0.7


def test_a_duplicated_code_costs_compactness_only(jittered, factors):
    result = score(jittered[:, [0, 0, 1, 2]], factors)
    assert result["infom"] > 0.9
    assert result["infoc"] < 0.85


def test_a_faint_code_is_not_active(jittered, factors):
    codes = np.column_stack([jittered, jittered[:, 0] * 0.001])
    assert score(codes, factors)["active"] == [0, 1, 2]


def test_single_units_and_factors_are_finite(jittered, factors):
    assert score(jittered[:, :1], factors)["infoc"] == 1.0
    assert score(jittered, factors[:, :1])["infom"] == 1.0


def test_agrees_with_the_definition(rotated, factors):
    result = score(rotated, factors, seed=6)
    rows = np.random.RandomState(6).permutation(3_000)[:1_000]
    codes, labels = rotated[rows], factors[rows]
    codes = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    nmi, readable = np.zeros((3, 3)), []
    for factor, column in enumerate(labels.T):
        for unit in range(3):
            nmi[unit, factor] = mutual_info_classif(codes[:, [unit]], column, n_neighbors=10, random_state=6)[
                0
            ]
        nmi[:, factor] /= mutual_info_score(column, column)
        fits = [
            LogisticRegression(C=np.inf, class_weight="balanced").fit(x, column) for x in (codes, codes * 0)
        ]
        losses = [log_loss(column, m.predict_proba(x)) for m, x in zip(fits, (codes, codes * 0), strict=True)]
        readable.append(1 - losses[0] / losses[1])
    np.testing.assert_allclose(result["nmi"], nmi, atol=1e-9)
    assert result["infoe"] == pytest.approx(np.mean(readable), abs=1e-3)
    assert result["infom"] == pytest.approx(((nmi.max(1) / nmi.sum(1)).mean() - 1 / 3) * 1.5, abs=1e-9)
    assert result["infoc"] == pytest.approx(((nmi.max(0) / nmi.sum(0)).mean() - 1 / 3) * 1.5, abs=1e-9)
