import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from disdiff.metrics.beta_vae import compute_beta_vae
from ldm.errors import UserError

SIZES = {"num_train": 1_000, "num_eval": 1_000}


def test_identity_codes_are_perfect(identity, factors):
    result = compute_beta_vae(identity, factors, seed=0, **SIZES)
    assert result["eval_accuracy"] == result["train_accuracy"] == 1.0


def test_independent_codes_are_at_chance(independent, factors):
    result = compute_beta_vae(independent, factors, seed=0, **SIZES)
    assert result["eval_accuracy"] == pytest.approx(1 / 3, abs=0.06)


def test_constant_and_duplicated_codes_cost_nothing(identity, factors):
    codes = np.column_stack([identity, identity[:, 0], np.ones(len(identity))])
    assert compute_beta_vae(codes, factors, seed=0, **SIZES)["eval_accuracy"] == 1.0


def test_agrees_with_a_loop_over_pairs(rotated, factors):
    codes = rotated + np.random.default_rng(3).normal(size=rotated.shape)
    random = np.random.default_rng(0)

    def point():
        factor = random.integers(3)
        first = random.integers(len(codes), size=8)
        second = [random.choice(np.flatnonzero(factors[:, factor] == v)) for v in factors[first, factor]]
        return np.abs(codes[first] - codes[second]).mean(axis=0), factor

    points, labels = (np.array(part) for part in zip(*(point() for _ in range(2_000)), strict=True))
    expected = LogisticRegression().fit(points[:1_000], labels[:1_000]).score(points[1_000:], labels[1_000:])
    result = compute_beta_vae(codes, factors, seed=0, num_train=5_000, num_eval=5_000, batch_size=8)
    assert result["eval_accuracy"] == pytest.approx(expected, abs=0.06)


def test_one_factor_is_refused(identity, factors):
    with pytest.raises(UserError, match="factors have one column"):
        compute_beta_vae(identity, factors[:, :1], seed=0, **SIZES)
