"""Controls are what they are called, leave the run as it was, and are scored like the run."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from disdiff.config.schema import CONFIGS, to_yaml
from disdiff.report.sentences import describe_controls
from disdiff.report.summary import list_control_values, list_controls
from disdiff.runs import controls
from disdiff.runs.controls import Material, encode_principal, encode_start, encode_untrained, score_controls
from ldm.data.source import to_float


@pytest.fixture
def context(build_on_noise, halves):
    """A run of five units that start at principal components, on 4,800 images of coloured halves."""
    halves.repeats = 400
    context = build_on_noise(
        CONFIGS / "disdiff" / "shapes3d.yaml",
        *("code.num_units=5", "data.num_train=100", "evaluation.num_images=2100"),
        "code.encoder={start: principal, channels: 8, hidden: 0, norm: batch}",
        source=halves,
    )
    context.latent_space.autoencoder.eval()
    context.model.eval().fit_start(encode(context, context.train_index))
    return context


def encode(context, index):
    return context.latent_space.encode(to_float(context.source.images(index))).detach()


@pytest.fixture
def material(context):
    return Material(context.config, context.model, context.source, "fast")


@torch.no_grad()
def test_controls_are_what_they_are_called(context, material):
    assert torch.equal(material.index, context.eval_index[:2000])
    image = to_float(context.source.images(material.index))
    np.testing.assert_array_equal(encode_start(material), context.model.encode(image))  # not trained yet
    train, evaluation = (encode(context, i).flatten(1).numpy() for i in (context.train_index, material.index))
    expected = PCA(5, random_state=0).fit(train).transform(evaluation)
    np.testing.assert_allclose(encode_principal(material), expected, rtol=1e-3, atol=1e-3)
    blurred = image.unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean(dim=(3, 5)).flatten(1).numpy()
    np.testing.assert_allclose(material.pixels[1], blurred, atol=1e-6)


@torch.no_grad()
def test_the_untrained_encoder_is_another_one_and_the_run_stays_as_it_was(context, material):
    before = to_yaml(context.config), [p.clone() for p in context.model.networks.parameters()]
    state = torch.get_rng_state()
    first, again, other = (encode_untrained(material, seed) for seed in (0, 0, 1))
    assert first.shape == (2000, 5, 1) and np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.allclose(first, encode_start(material), atol=0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert to_yaml(context.config) == before[0]
    assert all(map(torch.equal, before[1], context.model.networks.parameters()))


def test_run_and_controls_are_scored_alike_once(context, monkeypatch):
    factors = context.source.factors(context.eval_index).numpy()
    codes = {"codes": factors[..., None].astype(np.float32), "factors": factors}
    shared = (context.config, context.model, context.source, codes)
    scored = score_controls(*shared)["fast"]
    assert scored["run"]["factor_vae"] == 1 and scored["run"]["dci"] > 0.99
    names = [control["name"] for control in scored["controls"]]
    starts = (
        "PCA of the latents",
        "untrained",
        "start of the encoder (principal)",
        "start on 8x8",
        "start on 8x8",
    )
    assert all(name.startswith(start) for name, start in zip(names, starts, strict=True))
    assert "(eigenmaps)" in names[3] and "(principal)" in names[4]
    assert [control["seed"] for control in scored["controls"]] == [None, 0, None, None, None]
    score, calls = controls.compute_scores, []
    monkeypatch.setattr(controls, "compute_scores", lambda *a, **k: calls.append(1) or score(*a, **k))
    assert score_controls(*shared)["fast"] == scored and len(calls) == 1  # of the run; controls are kept
    context.source.factors_sha256 = "of other labels"
    score_controls(*shared)
    assert len(calls) == 1 + 1 + len(names)


def test_few_images_are_drawn_with_replacement_and_named_so(context):
    """As the run's own scores are: a folder with few labels has controls, too."""
    context.config.evaluation.num_images = 120
    factors = context.source.factors(context.eval_index[:120]).numpy()
    codes = {"codes": factors[..., None].astype(np.float32), "factors": factors}
    scored = score_controls(context.config, context.model, context.source, codes)
    (found,) = scored.values()
    assert list(scored) == ["fast, with replacement from 120 images"] and found["num_images"] == 120
    assert found["run"]["dci"] > 0.9 and all("dci" in control for control in found["controls"])


@pytest.fixture
def scored():
    return {
        "num_images": 2000,
        "seed": 0,
        "run": {"factor_vae": 0.9, "dci": 0.5},
        "controls": [
            {"name": "PCA", "seed": None, "factor_vae": 0.6, "dci": 0.7},
            {"name": "random", "seed": 0, "factor_vae": 0.8},
            {"name": "start", "seed": None, "reason": "too few images"},
        ],
    }


def test_a_sentence_says_by_how_much_training_beat_the_best_control(scored):
    said = describe_controls("fast", scored)
    assert "in FactorVAE training beat it by 0.100 (0.900 against 0.800, random)" in said
    assert "in DCI training fell short of it by 0.200 (0.500 against 0.700, PCA)" in said
    assert "2,000 images, protocol fast" in said and said.count(". ") == 0 and said.endswith(".")
    scored["run"]["dci"] = 0.7003
    assert "in DCI training equalled it" in describe_controls("fast", scored)
    scored["run"] = {"reason": "codes are constant"}
    assert "not defined" in describe_controls("fast", scored)


def test_controls_are_rows_of_tables(scored):
    rows = list_controls(scored)
    assert rows[0] == ["this run, trained", "", 0.9, 0.5] and rows[2] == ["random", "0", 0.8, "not defined"]
    assert rows[3] == ["start", "", "too few images", "too few images"]
    metrics = {"controls": {"fast": scored}}
    values = list_control_values(metrics, "paper")
    assert values["FactorVAE (fast), above its best control"] == pytest.approx(0.1)
    assert values["DCI (fast), control: PCA"] == 0.7
    assert values["DCI (fast), beside its controls"] == 0.5
    metrics["controls"]["paper"] = {**scored, "run": {"dci": 0.6}}
    assert list_control_values(metrics, "paper")["DCI (paper), beside its controls"] == 0.6
    assert list_control_values({}, "paper") == {}
