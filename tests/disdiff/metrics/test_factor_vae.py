import numpy as np
import pytest

from disdiff.metrics.factor_vae import compute_factor_vae
from ldm.errors import UserError

SIZES = {"num_variance": 2_000, "num_train": 1_500, "num_eval": 1_000}


def score(codes, factors, seed=0, **changes):
    return compute_factor_vae(codes, factors, seed=seed, **(SIZES | changes))


def test_identity_codes_are_perfect(identity, factors):
    result = score(identity, factors)
    assert result["eval_accuracy"] == result["train_accuracy"] == 1.0
    assert (np.array(result["votes"]) > 0).tolist() == np.eye(3, dtype=bool).tolist()


def test_independent_codes_are_at_chance(independent, factors):
    assert score(independent, factors)["eval_accuracy"] == pytest.approx(1 / 3, abs=0.06)


def test_rotated_codes_are_worse_than_identity(rotated, factors):
    assert score(rotated, factors)["eval_accuracy"] < 0.75


def test_a_duplicated_code_costs_nothing(identity, factors):
    assert score(identity[:, [0, 0, 1, 2]], factors)["eval_accuracy"] == 1.0


def test_a_missing_factor_costs_its_share(identity, factors):
    assert score(identity[:, :2], factors)["eval_accuracy"] == pytest.approx(2 / 3, abs=0.05)


def test_constant_and_faint_codes_do_not_vote(identity, factors):
    codes = np.column_stack([np.zeros(len(identity)), identity, identity[:, 0] * 0.01])
    result = score(codes, factors)
    assert (result["num_active"], result["active"]) == (3, [1, 2, 3])
    assert sum(result["votes"][0]) == sum(result["votes"][4]) == 0
    assert score(codes, factors, prune_std=1e-3)["num_active"] == 4


def test_no_active_unit_scores_zero(identity, factors):
    result = score(identity * 1e-3, factors)
    assert (result["eval_accuracy"], result["train_accuracy"], result["num_active"]) == (0.0, 0.0, 0)


def test_the_scale_of_a_code_does_not_matter(rotated, factors):
    plain, scaled = score(rotated, factors), score(rotated * [1.0, 8.0, 0.5], factors)
    assert plain["votes"] == scaled["votes"]


def test_agrees_with_a_loop_over_batches(rotated, factors):
    codes = rotated + np.random.default_rng(3).normal(size=rotated.shape) * 0.3
    random = np.random.default_rng(0)
    variance = codes.var(axis=0, ddof=1)

    def vote():
        factor = random.integers(3)
        value = factors[random.integers(len(factors)), factor]
        rows = random.choice(np.flatnonzero(factors[:, factor] == value), 64)
        return np.argmin(codes[rows].var(axis=0, ddof=1) / variance), factor

    train = np.zeros((3, 3))
    for _ in range(1_500):
        train[vote()] += 1
    classifier = train.argmax(axis=1)
    hits = sum(classifier[unit] == factor for unit, factor in (vote() for _ in range(1_000)))
    result = score(codes, factors, num_eval=5_000)
    assert result["eval_accuracy"] == pytest.approx(hits / 1_000, abs=0.06)
    np.testing.assert_allclose(np.array(result["votes"]) / 1_500, train / 1_500, atol=0.05)


def test_the_seed_decides_and_is_recorded(rotated, factors):
    assert score(rotated, factors, seed=5) == score(rotated, factors, seed=5)
    assert score(rotated, factors, seed=5)["votes"] != score(rotated, factors, seed=6)["votes"]
    result = score(rotated, factors, seed=5)
    assert (result["seed"], result["sizes"]) == (5, {"variance": 2_000, "train": 1_500, "eval": 1_000})


def test_fewer_rows_than_asked_are_refused(identity, factors):
    with pytest.raises(UserError, match="codes have 3000 rows but 10000 are needed"):
        compute_factor_vae(identity, factors, seed=0)


def test_no_active_unit_is_told_and_the_published_number_kept(identity, factors):
    result = score(identity * 1e-3, factors)
    assert (result["eval_accuracy"], result["num_active"], result["active"]) == (0.0, 0, [])
    assert "below 0.05" in result["note"] and "largest standard deviation is 0.0014" in result["note"]
    some = score(identity * [1, 1e-3, 1e-2], factors)
    assert some["active"] == [0] and "note" not in some


def test_a_unit_constant_but_for_rounding_does_not_vote_even_without_a_threshold(identity, factors):
    codes = np.column_stack([np.where(identity[:, 0] > 1, 0.3, 0.1 + 0.2), np.full(3_000, 0.1), identity])
    result = score(codes, factors, prune_std=0.0)
    assert result["active"] == [2, 3, 4] and result["eval_accuracy"] == 1.0
