"""Scores are kept as soon as they are there, and only for the codes and the protocol they belong to."""

import json
from dataclasses import replace

import numpy as np
import pytest

from disdiff import results
from disdiff.config import EvaluationConfig
from disdiff.results import SCORES, score_once
from ldm.errors import UserError

EVALUATION = EvaluationConfig(protocol="fast")


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {"codes": random.normal(size=(9, 2, 1)), "factors": random.integers(0, 3, (9, 2))}


@pytest.fixture
def scored(monkeypatch):
    """What was scored, by a stand-in for the metrics."""
    calls = []

    def score(arrays, protocol, seed):
        calls.append((protocol, seed))
        return {"dci": {"disentanglement": 0.5 + seed}}, None

    monkeypatch.setattr(results, "score_codes", score)
    return calls


def test_a_run_killed_after_its_scores_does_not_score_again(arrays, scored, tmp_path):
    first = score_once(tmp_path, arrays, EVALUATION)
    assert (tmp_path / SCORES).exists()
    assert score_once(tmp_path, arrays, EVALUATION) == first == ({"dci": {"disentanglement": 0.5}}, None)
    assert scored == [("fast", 0)]


@pytest.mark.parametrize("change", ["codes", "factors", "protocol", "seed"])
def test_other_codes_or_another_evaluation_are_scored_anew(arrays, scored, tmp_path, change):
    score_once(tmp_path, arrays, EVALUATION)
    evaluation = EVALUATION
    if change in arrays:
        arrays = {**arrays, change: arrays[change] + 1}
    else:
        evaluation = replace(EVALUATION, **{change: {"protocol": "paper", "seed": 7}[change]})
    score_once(tmp_path, arrays, evaluation)
    assert len(scored) == 2
    assert json.loads((tmp_path / SCORES).read_text())["of"]["protocol"] == evaluation.protocol


def test_the_reason_for_no_scores_is_kept_too(arrays, tmp_path):
    del arrays["factors"]
    scores, reason = score_once(tmp_path, arrays, EVALUATION)
    assert scores is None and "no factor labels" in reason
    assert score_once(tmp_path, arrays, EVALUATION) == (None, reason)


def test_a_damaged_file_is_named(arrays, tmp_path):
    (tmp_path / SCORES).write_text("{")
    with pytest.raises(UserError, match="scores.json"):
        score_once(tmp_path, arrays, EVALUATION)
