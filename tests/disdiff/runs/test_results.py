"""Scores are kept as soon as they are there, and only for the codes and the protocol they belong to."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from disdiff.config.schema import CONFIGS, Config, EvaluationConfig, load_config
from disdiff.report.album import PARTS
from disdiff.runs import results
from disdiff.runs.results import FILES, SCORES, describe_evaluation, results_are_complete, score_once
from ldm.data.catalog import DataOptions, open_data
from ldm.data.source import describe_source
from ldm.errors import UserError
from ldm.files import save_json

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


def test_results_are_of_the_attributes_they_were_made_with(tmp_path):
    """No stage depends on `attributes.csv`, but TAD and codes.npz do."""
    data, folder = tmp_path / "data", tmp_path / "run"
    folder.mkdir(), data.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(data / f"{name}.png")

    def open_with(*rows):
        (data / "attributes.csv").write_text("\n".join(["file,hat", *rows]) + "\n")
        source = open_data(DataOptions("folder", str(data), image_size=8))
        fields = {"config": Config(), "stages": {}, "model": SimpleNamespace(has_unit_fields=True)}
        return SimpleNamespace(folder=folder, source=source, **fields)

    first = open_with("a.png,0", "b.png,1")
    for name in (*FILES, *(name for names in PARTS.values() for name in names)):
        (folder / name).write_text("")
    evaluation, dataset = describe_evaluation(first.config), describe_source(first.source)
    save_json(folder / "metrics.json", {"stages": {}, "evaluation": evaluation, "dataset": dataset})
    assert results_are_complete(first) and results_are_complete(open_with("b.png,1", "a.png,-1"))
    assert not results_are_complete(open_with("a.png,1", "b.png,1"))
    (data / "attributes.csv").unlink()
    without = open_data(DataOptions("folder", str(data), image_size=8))
    assert not results_are_complete(SimpleNamespace(**{**vars(first), "source": without}))


def test_scores_that_are_not_defined_stop_no_summary():
    protocol = "fast"
    factor_vae = {"eval_accuracy": 0.0, "note": "no unit is active"}
    undefined = {"beta_vae": "factors have one column", "dci": "use more"}
    metrics = {
        "reconstruction": {"psnr": 20.0},
        "editing": {"success_mean": 0.5, "kept_mean": None},
        "scores": {protocol: {"factor_vae": factor_vae, "undefined": undefined}},
        "seconds_total": 60.0,
        "dataset": {"procedural": False, "name": "mine"},
    }
    said = results.summarise(metrics)
    for part in (
        *("FactorVAE 0.000 (fast)", "swaps 50% right;", "DCI is not defined: use more"),
        *("FactorVAE score: no unit is active", "beta-VAE score is not defined: factors have one column"),
    ):
        assert part in said
    metrics["scores"][protocol] = {"unsupervised": {}, "undefined": undefined}
    metrics["editing"]["by_name"] = {"success_mean": 0.75}
    said = results.summarise(metrics)
    assert "no FactorVAE, DCI or TAD score (fast)" in said
    assert "swaps 50% right (75% with all units of a factor);" in said


@pytest.mark.parametrize(
    ("scores", "wanted", "called"),
    [
        ({"dci": {}, "mig": {}}, True, True),
        ({"dci": {}}, False, False),
        ({"tad": {}}, True, False),
        (None, True, False),
    ],
)
def test_controls_are_for_runs_with_factors(monkeypatch, scores, wanted, called):
    found = {"fast": {"run": {"dci": 0.5}}}
    monkeypatch.setattr(results, "score_controls", lambda *_, progress: found)
    context = SimpleNamespace(config=Config(evaluation=EvaluationConfig(controls=wanted)), source=None)
    assert results.measure_controls(context, None, {}, scores) == (found if called else None)


def test_more_units_are_advised_where_none_is_empty():
    config = load_config([CONFIGS / "disdiff" / "glyphs.yaml"])
    assert "all 14 units are in use" in results.advise_units(config, [])
    assert "code.num_units=21" in results.advise_units(config, [])
    assert not results.advise_units(config, [3])
    config.code.loss.weight_correlation = 0.0  # without a price no unit stays empty
    assert not results.advise_units(config, [])
