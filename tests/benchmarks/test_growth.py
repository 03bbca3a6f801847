"""Points of a curve are those of one uninterrupted run, and nothing is trained or scored twice."""

import pytest
import torch
from safetensors.torch import load_file

from disdiff.runs.training import train_first_stages


@pytest.fixture
def growth(load_benchmark):
    return load_benchmark("growth")


@pytest.fixture
def open_tiny(load_benchmark, noise_images, tmp_path):
    """Return a function that opens a tiny run of a name, with batches of 8 images."""
    gpu = load_benchmark("gpu")
    short = [f"{stage}.train.images=16" for stage in ("autoencoder", "latent_diffusion")]
    words = [*gpu.SHORT, *gpu.SIZES["tiny"], *short, f"run.root={tmp_path}", "trainer.device=cpu"]
    return lambda name: gpu.open_run([*words, f"run.name={name}"])


@pytest.fixture
def scored(growth, monkeypatch):
    """The steps at which a code was scored, by the sum of its weights instead of labels."""
    calls = []

    def score(context, protocol):
        calls.append(protocol)
        return {"dci": sum(float(t.detach().double().sum()) for t in context.modules["code"].parameters())}

    monkeypatch.setattr(growth, "score_code", score)
    return calls


def never(step):
    return False


def test_points_are_those_of_one_run(growth, open_tiny, scored):
    for name, counts in (("straight", [48]), ("in-parts", [16, 37, 48])):
        for images in counts:
            context = open_tiny(name)
            train_first_stages(context)
            growth.add_point(context, images, "fast", never)
    straight, parts = (growth.load_points(context.folder.parent / name) for name in ("straight", "in-parts"))
    assert [point["images"] for point in parts] == [16, 32, 48] and [p["steps"] for p in straight] == [6]
    assert straight[-1]["scores"] == parts[-1]["scores"] != parts[0]["scores"]
    a, b = (
        load_file(context.folder.parent / name / "code-6.safetensors") for name in ("straight", "in-parts")
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_point_is_made_once_and_scored_once_per_protocol(growth, open_tiny, scored, monkeypatch):
    context = open_tiny("run")
    train_first_stages(context)
    first = growth.add_point(context, 16, "fast", never)
    monkeypatch.setattr(growth, "train_stage", None)
    assert growth.add_point(context, 16, "fast", never) == first
    again = growth.add_point(context, 16, "paper", never)
    assert scored == ["fast", "paper"] and again["scores"]["paper"] == first["scores"]["fast"]


def test_a_point_is_made_where_training_is_stopped_or_already_is(growth, open_tiny, scored):
    context = open_tiny("run")
    train_first_stages(context)
    assert growth.add_point(context, 400, "fast", lambda step: step == 3)["images"] == 24
    assert growth.add_point(context, 16, "fast", never)["images"] == 24  # no weights of step 2 are left
    assert len(growth.load_points(context.folder)) == len(scored) == 1


def test_a_code_that_has_no_scores_gives_the_reason(growth, open_tiny):
    context = open_tiny("run")
    scores = growth.score_code(context, "paper")
    assert "needs 15000" in scores["reason"]
    assert "needs 15000" in growth.tell_point({"images": 8, "scores": {"paper": scores}}, "paper")
