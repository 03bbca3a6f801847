"""Data for which some scores are not defined: the others are there, and the reason is."""

import json

import numpy as np
import pytest

from disdiff.metrics.protocols import (
    compute_attribute_scores,
    compute_binarised_scores,
    compute_scores,
)
from ldm.errors import UserError

NAMES = "factor_vae beta_vae mig med modularity irs unsupervised sap explicitness infomec dci".split()


def scores_of(codes, factors):
    scores = compute_scores(codes[:2_000], factors[:2_000], "fast", 0)
    json.dumps(scores, allow_nan=False)
    return scores


def test_one_factor_loses_the_beta_vae_score_only(identity, factors):
    scores = scores_of(identity, factors[:, :1])
    assert set(scores) == {*NAMES, "undefined"} - {"beta_vae"}
    assert list(scores["undefined"]) == ["beta_vae"]
    assert "distinguishes factors" in scores["undefined"]["beta_vae"]
    assert scores["factor_vae"]["eval_accuracy"] == 1.0 and scores["mig"]["score"] > 0.9


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_constant_factor_changes_no_score_and_keeps_its_column(identity, factors, place):
    plain = scores_of(identity, factors)
    scores = scores_of(identity, np.insert(factors, place, 7, axis=1))
    assert scores.pop("undefined") == {f"factor {place}": "it has a single value, so no score counts it"}
    for name, key in (("mig", "score"), ("dci", "disentanglement"), ("factor_vae", "eval_accuracy")):
        assert scores[name][key] == plain[name][key]
    importance = np.array(plain["dci"]["importance"])
    assert scores["dci"]["importance"] == np.insert(importance, place, 0.0, axis=1).tolist()
    assert scores["dci"]["accuracy"].pop(place) is None
    assert scores["dci"]["accuracy"] == plain["dci"]["accuracy"]
    assert np.shape(scores["sap"]["accuracy"]) == np.shape(scores["infomec"]["nmi"]) == (3, 4)
    parents = [best + (best >= place) for best in plain["irs"]["parents"]]
    assert scores["irs"]["parents"] == parents
    units = plain["mig"]["units"]
    assert scores["mig"]["units"] == [*units[:place], None, *units[place:]]


def test_a_value_seen_once_loses_at_most_dci(identity, factors):
    for row in (0, 700, 1_999):
        once = (np.arange(3_000) == row).astype(int)
        scores = scores_of(identity, np.column_stack([factors, once]))
        assert set(NAMES) - set(scores) <= {"dci"}
        if "dci" not in scores:
            assert "single value in column(s) [3] of the 1500 training rows" in scores["undefined"]["dci"]


def test_one_unit_has_every_score(identity, factors):
    scores = scores_of(identity[:, :1], factors)
    assert set(scores) == set(NAMES)
    assert scores["dci"]["completeness"] == 1 and scores["unsupervised"]["mutual_information"] == 0


def test_a_unit_that_varies_in_rows_that_are_not_drawn(factors):
    for row in range(2):
        codes = np.full((2_000, 2), 0.1)
        codes[np.random.RandomState(0).permutation(2_000)[1_999 - row]] = 1.0
        scores = scores_of(codes, factors)
        told = scores["undefined"]
        assert {"irs", "infomec", "unsupervised"} <= set(told)
        assert all(
            "constant in every unit on the 1500 rows drawn" in told[name] for name in ("irs", "infomec")
        )


def test_units_that_vary_by_rounding_alone_change_no_score(identity, factors):
    jitter = np.where(factors[:, :1] > 1, 0.3, 0.1 + 0.2)
    assert scores_of(np.hstack([identity, jitter]), factors) == scores_of(
        np.hstack([identity, np.full((3_000, 1), 0.3)]), factors
    )


def test_no_varying_factor_and_too_few_rows_are_still_refused(identity, factors):
    with pytest.raises(UserError, match=r"single value in column\(s\) \[0, 1, 2\]"):
        scores_of(identity, factors * 0)
    with pytest.raises(UserError, match="codes have 2 rows but protocol 'fast' needs 2000"):
        compute_scores(identity[:2], factors[:2] * 0 + [[0], [1]], "fast", 0)
    with pytest.raises(UserError, match="codes have 2 rows but 1500 are needed"):
        compute_attribute_scores(identity[:2], np.array([[0], [1]]), "fast")


@pytest.mark.parametrize("place", [0, 2])
def test_an_attribute_that_all_images_have_is_not_captured(identity, factors, place):
    attributes = (factors > 1).astype(int)
    plain = compute_attribute_scores(identity, attributes, "fast")
    scores = compute_attribute_scores(identity, np.insert(attributes, place, 1, axis=1), "fast")
    json.dumps(scores, allow_nan=False)
    assert scores["undefined"] == {f"attribute {place}": "it has a single value, so no score counts it"}
    assert scores["tad"]["score"] == plain["tad"]["score"]
    assert scores["tad"]["captured"][place] == 0 and len(scores["tad"]["captured"]) == 4
    assert scores["tad"]["auroc"][place] == [0.5] * 3
    assert scores["latent_quality"]["auroc"] == plain["latent_quality"]["auroc"]
    assert scores["latent_quality"]["per_column"][place] is None
    with pytest.raises(UserError, match="attributes have a single value"):
        compute_attribute_scores(identity, attributes * 0, "fast")


def test_a_constant_factor_of_the_binarised_form_keeps_the_numbers_of_the_others(identity, factors):
    plain = compute_binarised_scores(identity, factors, "fast")
    scores = compute_binarised_scores(identity, np.insert(factors, 1, 3, axis=1), "fast", num_rows=1_500)
    pairs = [[factor + (factor >= 1), value] for factor, value in plain["tad_binarised"]["attributes"]]
    assert scores["tad_binarised"]["attributes"] == pairs
    assert scores["tad_binarised"]["score"] == plain["tad_binarised"]["score"]
    assert scores["latent_quality"]["per_column"][1] is None


@pytest.mark.parametrize("scale", [1e-3, 1e-6])
def test_scores_on_bins_and_standardised_units_do_not_depend_on_the_scale(rotated, factors, scale):
    plain, small = scores_of(rotated, factors), scores_of(rotated * scale, factors)
    for name, key in (
        *(("mig", "score"), ("med", "disentanglement"), ("modularity", "score"), ("irs", "score")),
        *(("explicitness", "score"), ("infomec", "infom"), ("unsupervised", "mutual_information")),
    ):
        assert small[name][key] == pytest.approx(plain[name][key], abs=1e-3), name
