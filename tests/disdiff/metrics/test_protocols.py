import json
from dataclasses import replace

import numpy as np
import pytest

from disdiff.metrics.protocols import (
    PROTOCOLS,
    build_metrics,
    compute_attribute_scores,
    compute_scores,
    name_protocol,
)
from ldm.errors import UserError


@pytest.fixture(scope="module")
def fast_scores(identity, factors):
    calls = []
    vectors = identity[:2_000, :, None] * np.array([1.0, 0.5])
    scores = compute_scores(vectors, factors[:2_000], "fast", 0, progress=lambda *call: calls.append(call))
    return scores, calls


def test_paper_sizes_are_the_published_ones():
    paper = PROTOCOLS["paper"]
    assert (paper.num_train, paper.num_test, paper.dci_estimator) == (10_000, 5_000, "gradient_boosting")
    assert (paper.num_votes, paper.num_eval_votes, paper.batch_size) == (10_000, 5_000, 64)
    assert (paper.prune_std, paper.num_bins) == (0.05, 20)


def test_identity_vectors_are_perfect_and_the_result_is_json(fast_scores):
    scores, _ = fast_scores
    assert scores["factor_vae"]["eval_accuracy"] == scores["beta_vae"]["eval_accuracy"] == 1.0
    assert scores["dci"]["disentanglement"] == pytest.approx(1.0, abs=1e-6)
    assert scores["mig"]["score"] > 0.98
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_every_metric_of_factors_is_there(fast_scores):
    names = "factor_vae beta_vae mig med modularity irs unsupervised sap explicitness infomec dci"
    assert set(fast_scores[0]) == set(names.split())


def test_attributes_have_their_own_scores(identity, factors):
    vectors = np.stack([identity, identity], axis=2)
    scores = compute_attribute_scores(vectors, (factors > 1).astype(int), "fast")
    assert set(scores) == {"tad", "tad_pca1", "tad_eleven_thresholds", "latent_quality"}
    assert scores["tad_pca1"]["num_captured"] == 3
    assert scores["latent_quality"]["auroc"] > 0.99
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_every_score_names_its_estimator_settings_sizes_and_seed(fast_scores):
    for result in fast_scores[0].values():
        assert {"estimator", "settings", "sizes", "seed"} <= set(result)


def test_fast_names_another_estimator(fast_scores):
    assert fast_scores[0]["dci"]["estimator"] == "gradient_boosting_20_rounds"


def test_progress_names_every_metric_from_start_to_end(fast_scores):
    scores, calls = fast_scores
    for name in scores:
        assert (name, 0.0) in calls
        assert (name, 1.0) in calls


@pytest.fixture(scope="module")
def metrics():
    sizes = {"num_train": 1_000, "num_test": 500, "num_votes": 300, "num_eval_votes": 200}
    return build_metrics(replace(PROTOCOLS["fast"], **sizes))


LOWER, SAME, HIGHER = "lower", "the same", "higher"
KNOWN = [  # metric, its number, what happens to it when codes are independent, rotated, duplicated, one short
    ("factor_vae", "eval_accuracy", LOWER, LOWER, SAME, LOWER),
    ("beta_vae", "eval_accuracy", LOWER, None, SAME, SAME),  # the missing one is told by exclusion
    ("mig", "score", LOWER, LOWER, LOWER, LOWER),
    ("med", "disentanglement", LOWER, LOWER, SAME, LOWER),
    ("modularity", "score", LOWER, LOWER, SAME, SAME),
    ("irs", "score", LOWER, LOWER, SAME, SAME),
    ("sap", "score", LOWER, LOWER, LOWER, LOWER),
    ("explicitness", "score", LOWER, SAME, SAME, LOWER),
    ("infomec", "infom", LOWER, LOWER, SAME, SAME),
    ("infomec", "infoc", LOWER, LOWER, LOWER, None),
    ("infomec", "infoe", LOWER, SAME, SAME, LOWER),
    ("dci", "disentanglement", LOWER, LOWER, SAME, None),
    ("dci", "completeness", LOWER, LOWER, LOWER, None),
    ("dci", "informativeness", LOWER, None, SAME, LOWER),
    ("unsupervised", "mutual_information", None, HIGHER, HIGHER, SAME),
]


@pytest.fixture(scope="module")
def known(metrics, identity, independent, rotated, factors):
    """Scores of every metric on the codes with known answers; identity jittered, as InfoMEC expects."""
    base = identity + np.random.default_rng(5).uniform(-0.02, 0.02, identity.shape)
    cases = {
        "identity": base,
        "independent": independent,
        "rotated": rotated,
        "duplicated": base[:, [0, 0, 1, 2]],
        "one short": base[:, :2],
    }
    return {
        case: {name: metric(codes, factors, seed=0) for name, metric in metrics.items()}
        for case, codes in cases.items()
    }


@pytest.mark.parametrize(("metric", "key", "changes"), [(name, key, rest) for name, key, *rest in KNOWN])
def test_codes_with_known_answers_move_every_metric_as_its_definition_says(known, metric, key, changes):
    start = known["identity"][metric][key]
    for case, expected in zip(("independent", "rotated", "duplicated", "one short"), changes, strict=True):
        change = known[case][metric][key] - start
        if expected == LOWER:
            assert change < -0.05, case
        elif expected == HIGHER:
            assert change > 0.05, case
        elif expected == SAME:
            assert abs(change) < 0.05, case


METRICS = "factor_vae beta_vae mig med modularity irs unsupervised sap explicitness infomec dci".split()


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_refuses_nan_and_an_all_constant_code_and_bears_one_constant_code(
    name, metrics, identity, factors
):
    spoilt = identity.copy()
    spoilt[7, 1] = np.nan
    with pytest.raises(UserError, match="codes contain NaN"):
        metrics[name](spoilt, factors, seed=0)
    with pytest.raises(UserError, match="codes are constant"):
        metrics[name](np.ones_like(identity), factors, seed=0)
    json.dumps(metrics[name](identity * [1, 0, 1], factors, seed=0), allow_nan=False)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"beta_vae"}))  # which draws with replacement
def test_every_metric_refuses_fewer_samples_than_it_asks_for(name, metrics, identity, factors):
    with pytest.raises(UserError, match="codes have 900 rows but"):
        metrics[name](identity[:900], factors[:900], seed=0)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"unsupervised"}))  # which needs no factors
def test_every_metric_refuses_bad_factors_by_name(name, metrics, identity, factors):
    for bad, says in (
        (factors[:-1], "codes have 3000 rows but factors have 2999"),
        (factors + 0.5, "factors must be integers"),
        (factors * [1, 0, 1], r"factors have a single value in column\(s\) \[1\]"),
    ):
        with pytest.raises(UserError, match=says):
            metrics[name](identity, bad, seed=0)


def test_sizes_are_never_shrunk(identity, factors):
    with pytest.raises(UserError, match="codes have 3000 rows but protocol 'paper' needs 15000"):
        compute_scores(identity, factors, "paper", 0)


def test_few_images_are_drawn_with_replacement_where_that_is_asked_for(factors):
    """Codes that are the factors score as such, codes at random do not: no test image is a training image."""
    few = factors[:120]
    right = compute_scores(few.astype(float), few, "fast", 0, replacement=True)
    assert right["sampling"]["rows"] == "with replacement from 120 images"
    assert right["factor_vae"]["eval_accuracy"] == 1 and right["dci"]["disentanglement"] > 0.95
    assert right["infomec"]["infom"] > 0.9 and right["infomec"]["sizes"] == {"train": 120}
    random = np.random.RandomState(0).rand(120, 3)
    wrong = compute_scores(random, few, "fast", 0, replacement=True)
    chance = np.mean([np.bincount(column).max() / 120 for column in few.T])
    assert wrong["dci"]["informativeness"] < chance + 0.15
    assert name_protocol("fast", 120) == "fast, with replacement from 120 images"
    assert name_protocol("fast", 2_000) == "fast"
    with pytest.raises(UserError, match="codes have 29 rows but 30 are needed"):
        compute_scores(random[:29], few[:29], "fast", 0, replacement=True)


def test_enough_images_are_drawn_without_replacement(identity, factors):
    scores = [compute_scores(identity, factors, "fast", 0, replacement=flag)["mig"] for flag in (True, False)]
    assert scores[0] == scores[1]


def test_an_unknown_protocol_is_named(identity, factors):
    with pytest.raises(UserError, match="protocol=papr is unknown; choose one of paper, fast"):
        compute_scores(identity, factors, "papr", 0)
