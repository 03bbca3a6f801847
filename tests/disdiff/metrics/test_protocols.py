import json

import numpy as np
import pytest

from disdiff.metrics.protocols import PROTOCOLS, compute_attribute_scores, compute_scores
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


def test_sizes_are_never_shrunk(identity, factors):
    with pytest.raises(UserError, match="codes have 3000 rows but protocol 'paper' needs 15000"):
        compute_scores(identity, factors, "paper", 0)


def test_an_unknown_protocol_is_named(identity, factors):
    with pytest.raises(UserError, match="protocol 'papr' is unknown: choose one of paper, fast"):
        compute_scores(identity, factors, "papr", 0)
