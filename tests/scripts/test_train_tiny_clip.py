import pytest

from disdiff.clip.tiny import NAME, load_record
from disdiff.clip.tower import load_clip
from disdiff.config.clip_options import ClipConfig
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.source import split_indices


@pytest.fixture
def train(tmp_path, noise_images, monkeypatch, load_script, call_script):
    """Return a function that trains on noise for images, for speed."""
    monkeypatch.setattr("disdiff.clip.tiny_training.TinyTraining.batch_size", 8)
    monkeypatch.chdir(tmp_path)
    script = load_script("train_tiny_clip")
    return lambda *arguments: call_script(script, *arguments)


def test_it_leaves_a_clip_that_knows_what_it_was_trained_on(train, tmp_path):
    status, said, _ = train("--steps", 1, "--num-train", 300, "--num-eval", 20, "--out", "clip")
    assert status == 0 and f"{NAME}: 1 steps" in said and "orientation (5 words)" in said
    record, source = load_record(tmp_path / "clip"), ProceduralShapes3D()
    assert record["trained_on"]["num_train"] == 300 and record["trained_on"]["procedural"]
    assert record["trained_on"]["identity"] == source.identity
    assert set(record["zero_shot"]["accuracy"]) >= {"floor hue", "shape", "scale"}
    train_index, held_out = split_indices(source, 300, 20)
    assert not set(train_index.tolist()) & set(held_out.tolist())
    assert load_clip(ClipConfig(model="local-dir:clip")).description.zero_shot["num_images"] == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", 0], "must be at least 1"),
        (["--minutes", 0], "must be more than 0"),
        (["--num-train", 480_000], "more than the 480000 images"),
        (["--real"], "data/shapes3d"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(train, arguments, says):
    status, _, error = train(*arguments)
    assert status == 2 and says in error and error.count("\n") == 1
