import open_clip
import pytest
import torch
import yaml

from disdiff.clip.tiny import MODEL, NAME, WordTokenizer, build_tiny_clip, load_record, save_tiny_clip
from disdiff.clip.tower import load_clip
from disdiff.config.clip_options import ClipConfig
from disdiff.config.schema import CONFIGS
from ldm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    net, _ = build_tiny_clip()
    record = {"trained_on": {"identity": "here", "num_train": 3}, "zero_shot": {"accuracy": {"shape": 0.5}}}
    save_tiny_clip(tmp_path / "clip", net, record)
    return tmp_path / "clip", net.eval()


def test_it_is_in_open_clips_registry():
    assert MODEL in open_clip.list_models()
    assert open_clip.create_model(MODEL).visual.image_size == 64


def test_the_last_token_is_the_largest_and_words_are_told_apart():
    tokenizer = WordTokenizer(["a", "blue", "red"], vocab_size=10, context_length=6)
    tokens = tokenizer(["A red, blue a!", "red"])
    assert tokens.tolist() == [[1, 2, 4, 3, 2, 9], [1, 4, 9, 0, 0, 0]]


def test_what_it_does_not_know_is_refused():
    tokenizer = WordTokenizer(["a", "red"], vocab_size=8, context_length=4)
    with pytest.raises(UserError, match="does not know the words mauve of 'a mauve'"):
        tokenizer(["a mauve"])
    with pytest.raises(UserError, match="too long"):
        tokenizer(["a red a"])
    with pytest.raises(ValueError, match="at most"):
        WordTokenizer(["a"] * 5, vocab_size=8, context_length=4)


def test_a_saved_one_loads_as_itself_under_its_name(folder):
    path, net = folder
    clip = load_clip(ClipConfig(model=f"local-dir:{path}"))
    assert clip.description.name == NAME == load_record(path)["name"]
    assert clip.description.trained_on["num_train"] == 3
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(clip(image), net.encode_image(image, normalize=True))
    texts = ["a photo of a red cube", "a room"]
    expected = net.encode_text(build_tiny_clip()[1](texts), normalize=True)
    torch.testing.assert_close(clip.encode_text(texts), expected)


def test_open_clip_itself_reads_the_folder(folder):
    path, net = folder
    again = open_clip.create_model(f"local-dir:{path}").eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again.encode_image(image), net.encode_image(image))


def test_it_knows_every_word_of_its_prompts():
    content = yaml.safe_load((CONFIGS.parent / "prompts" / "shapes3d.yaml").read_text())
    _, tokenizer = build_tiny_clip()
    for values in content["factors"].values():
        for texts in values.values():
            tokenizer([template.format(text) for template in content["templates"] for text in texts])
