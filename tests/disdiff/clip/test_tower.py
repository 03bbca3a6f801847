import open_clip
import pytest
import torch
from safetensors.torch import save_file

from disdiff.clip.preprocess import Preprocess
from disdiff.clip.tower import Clip, ClipDescription, load_clip
from disdiff.clip.weights import list_places
from disdiff.config.clip_options import ClipConfig
from ldm.errors import UserError


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch, tmp_path):
    """No network and no caches: whoever downloads fails the test."""

    def refuse(*arguments, **keywords):
        raise AssertionError("something was about to be downloaded")

    for name in ("disdiff.clip.weights.download_pretrained", "open_clip.factory.download_pretrained"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("disdiff.clip.weights.try_to_load_from_cache", lambda *names: None)
    monkeypatch.setattr("disdiff.clip.weights.CACHE", tmp_path / "cache")
    monkeypatch.setenv("DISDIFF_WEIGHTS", str(tmp_path / "weights"))


def tiny(pretrained):
    return ClipConfig(model="tiny_clip", pretrained=pretrained)


def test_random_weights_are_named_and_the_same_every_time(random_clip):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = load_clip(tiny("random"))
    assert torch.equal(before, torch.get_rng_state())
    assert again.description == random_clip.description
    assert again.description.name == "tiny CLIP with random weights (means nothing)"


def test_embeddings_are_unit_vectors_and_gradients_reach_the_image(random_clip):
    image = torch.zeros(2, 3, 32, 32, requires_grad=True)
    u = random_clip(image)
    assert u.shape == (2, random_clip.embed_dim)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(2))
    u[:, 0].sum().backward()
    assert image.grad.any()
    assert not any(parameter.requires_grad for parameter in random_clip.parameters())
    random_clip.train()
    assert not random_clip.eval().net.training


def test_a_weight_file_gives_its_weights(tmp_path, random_clip):
    state = {name: tensor.clone() for name, tensor in random_clip.net.state_dict().items()}
    state["text_projection"] += 1
    save_file(state, tmp_path / "mine.safetensors")
    clip = load_clip(tiny(str(tmp_path / "mine.safetensors")))
    assert clip.description.name == "tiny CLIP (mine.safetensors)"
    assert clip.description.fingerprint != random_clip.description.fingerprint
    torch.testing.assert_close(clip.net.text_projection, state["text_projection"])


def test_the_fingerprint_knows_the_normalisation(tmp_path, random_clip):
    config = ClipConfig(model="tiny_clip", pretrained="random", mean=[0.3] * 3, std=[0.2] * 3)
    assert load_clip(config).description.fingerprint != random_clip.description.fingerprint


def test_absent_weights_name_tag_file_size_place_and_what_works_without(tmp_path):
    with pytest.raises(UserError) as error:
        load_clip(ClipConfig(model="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    said = str(error.value)
    for part in (
        "laion2b_s34b_b79k of ViT-B-32",
        "huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "605 MB",
        "clip.pretrained=FILE",
        "ViT-B-32-laion2b_s34b_b79k.safetensors",
        "$DISDIFF_WEIGHTS",
        "weights.allow_download=true",
        "disdiff tiny-clip",
    ):
        assert part in said
    assert not (tmp_path / "weights").exists()


def test_places_where_weights_of_a_tag_may_lie(tmp_path):
    config = ClipConfig(model="RN50", pretrained="yfcc15m")
    places = list_places(config, {"url": "https://there/rn50-455df137.pt"})
    assert places[0] == tmp_path / "weights" / "RN50-yfcc15m.safetensors"
    assert places[-1] == tmp_path / "cache" / "rn50-455df137.pt"
    assert tmp_path / "weights" / "rn50-455df137.pt" in places


@pytest.mark.parametrize(
    ("model", "pretrained", "says"),
    [
        ("ViT-B-33", None, "ViT-B-33 is not an architecture of open_clip"),
        ("ViT-B-32", None, "needs clip.pretrained: a tag .*laion2b_s34b_b79k"),
        ("ViT-B-32", "laion3b", "neither a file nor a tag of ViT-B-32; its tags: openai"),
        ("ViT-B-16-SigLIP", "webli", "files of the Hugging Face hub"),
        ("local-dir:absent", None, "absent has no CLIP .*disdiff tiny-clip --out absent"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(model, pretrained, says):
    with pytest.raises(UserError, match=says):
        load_clip(ClipConfig(model=model, pretrained=pretrained))


def test_damaged_weights_and_folders(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="bad.safetensors has no weights of tiny_clip"):
        load_clip(tiny(str(tmp_path / "bad.safetensors")))
    (tmp_path / "open_clip_config.json").write_text('{"preprocess_cfg": {}}')
    with pytest.raises(UserError, match="open_clip cannot read"):
        load_clip(ClipConfig(model=f"local-dir:{tmp_path}"))
    (tmp_path / "bad.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        load_clip(ClipConfig(model=f"local-dir:{tmp_path}"))


@pytest.fixture(scope="module")
def worded():
    """The architecture of the tiny CLIP's kind, with the byte-pair tokenizer that open_clip gives others."""
    text = {"context_length": 9, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    net = open_clip.CLIP(32, vision, text)
    description = ClipDescription("a CLIP of nine tokens", "x", "random", "")
    preprocess = Preprocess(32, [0.5] * 3, [0.5] * 3, "bicubic")
    return lambda **options: Clip(
        net.eval(), open_clip.SimpleTokenizer(context_length=9, **options), preprocess, 32, description
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "one two three four five six seven eight"),
        ({}, "one two three four five six seven" + " !" * 2),
        ({}, "antidisestablishmentarianism floccinaucinihilipilification"),
        ({"reduction_mask": "simple"}, "one two three four five six seven eight"),
        ({"reduction_mask": "random"}, "one two three four five six seven eight"),
        ({"clean": "canonicalize"}, "One, two; three. four five six seven eight"),
    ],
)
def test_a_text_is_never_cut(worded, options, text):
    with pytest.raises(UserError, match="is too long: a CLIP of nine tokens reads 9 tokens") as error:
        worded(**options).encode_text(["a red wall", text])
    assert repr(text) in str(error.value)


def test_texts_that_fit_are_read_as_before(worded):
    clip, texts = worded(), ["one two three four five six seven", "!", "", "a red, wall!"]
    expected = clip.net.encode_text(open_clip.SimpleTokenizer(context_length=9)(texts), normalize=True)
    torch.testing.assert_close(clip.encode_text(texts), expected)
    assert clip.tokenize(texts).shape == (4, 9)


def test_a_tokenizer_whose_padding_is_its_end_as_siglips(worded):
    def tokenizer(texts, context_length=None):
        limit = context_length or 4
        rows = [[ord(letter) for letter in text][: limit - 1] for text in texts]
        return torch.tensor([row + [1] * (limit - len(row)) for row in rows])

    clip = worded()
    clip.tokenizer = tokenizer
    assert clip.tokenize(["abc", "ab", ""]).tolist() == [[97, 98, 99, 1], [97, 98, 1, 1], [1, 1, 1, 1]]
    with pytest.raises(UserError, match="'abcd' is too long: .* reads 4 tokens"):
        clip.tokenize(["ab", "abcd"])
