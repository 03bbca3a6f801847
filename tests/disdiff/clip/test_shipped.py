"""The tiny CLIP under pretrained/: what it is called, what it knows, and that configurations find it."""

import pytest

from disdiff.clip.captions import list_words
from disdiff.clip.tiny import NAME, build_tokenizer, load_record
from disdiff.clip.tiny_training import zero_shot_accuracy
from disdiff.clip.tower import load_clip
from disdiff.config.clip_options import ClipConfig
from disdiff.config.schema import CONFIGS, load_config
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.source import split_indices

ROOT = CONFIGS.parent
FOLDER = ROOT / "pretrained" / "tiny_clip"
AIMS = {"floor hue": 0.95, "wall hue": 0.95, "object hue": 0.95, "shape": 0.95, "scale": 0.7}


@pytest.fixture(scope="module")
def clip():
    return load_clip(ClipConfig(model=f"local-dir:{FOLDER}"))


def test_the_small_preset_is_guided_by_it():
    config = load_config([CONFIGS / "disdiff" / "shapes3d_clip.yaml"])
    assert config.clip.model == f"local-dir:{FOLDER.relative_to(ROOT)}"
    assert (ROOT / config.clip.prompts).exists()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4e6


def test_it_says_what_it_is_and_reaches_its_aims(clip):
    record = load_record(FOLDER)
    assert clip.description.name == record["name"] == NAME
    assert NAME[1:] in (FOLDER / "README.md").read_text()
    accuracy = record["zero_shot"]["accuracy"]
    assert all(accuracy[factor] >= aim for factor, aim in AIMS.items())
    assert record["words"] == list_words()  # captions have not moved on since


@pytest.mark.slow
def test_its_accuracy_is_what_its_record_says(clip):
    """On some of the images that it was not trained on; all of them must be drawn first."""
    source, record = ProceduralShapes3D(), load_record(FOLDER)
    assert record["trained_on"]["identity"] == source.identity
    held_out = split_indices(source, record["trained_on"]["num_train"], 300)[1]
    tokenizer = build_tokenizer({"text_cfg": {"vocab_size": 96, "context_length": 28}}, record["words"])
    found = zero_shot_accuracy(clip.net, tokenizer, clip.preprocess, source, held_out)
    for factor, value in record["zero_shot"]["accuracy"].items():
        assert found[factor] == pytest.approx(value, abs=0.04)
