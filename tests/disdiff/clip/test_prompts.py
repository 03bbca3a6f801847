import re

import pytest
import torch
import yaml

from disdiff.clip.prompts import Prompts, embed_prompts, principal_text_axes, read_prompts
from ldm.errors import UserError

WALL = {"wall": {"red": ["a"], "blue": ["b"]}}


def test_contrasts_point_from_the_first_value_to_the_second(directions, axes):
    assert directions.factors == ["wall", "size", "sky"]
    assert directions.factor.tolist() == [0, 0, 0, 1, 2]
    assert directions.pairs[3] == ("small", "large")
    torch.testing.assert_close(directions.contrasts[3], torch.eye(12)[2])
    torch.testing.assert_close(directions.contrasts.norm(dim=1), torch.ones(5))


def test_a_value_is_the_mean_over_its_texts_and_templates(prompts):
    prompts.factors["size"]["small"] = ["size small", "size tiny"]
    seen = []

    def encode_text(texts):
        seen.append(texts)
        return torch.nn.functional.normalize(torch.randn(len(texts), 5), dim=1)

    found = embed_prompts(encode_text, prompts)
    assert seen[3] == ["size small", "a size small", "size tiny", "a size tiny"]
    assert [tuple(rows.shape) for rows in found.embeddings] == [(3, 5), (2, 5), (2, 5)]


def test_principal_axes_span_the_differences_and_no_more(directions):
    wall = principal_text_axes(directions.embeddings[0], 4)
    torch.testing.assert_close(wall[:2] @ wall[:2].T, torch.eye(2), atol=1e-5, rtol=0)
    assert not wall[2:].any()
    difference = directions.embeddings[0][1] - directions.embeddings[0][0]
    torch.testing.assert_close(difference @ wall.T @ wall, difference, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "there are no factors"),
        ([1], "there are no factors"),
        ({"factors": {"wall": {"red": ["a"]}}}, "'wall' needs two values"),
        ({"factors": {"wall": {"red": ["a"], "blue": "b"}}}, "'blue' of 'wall' needs a list"),
        ({"factors": {"wall": {"red": ["a"], "blue": []}}}, "'blue' of 'wall' needs a list"),
        ({"factors": {"wall": {"red": ["a"], "blue": ["b", " "]}}}, "'blue' of 'wall' needs a list"),
        ({"factors": {"wall": {"red": ["a"], "blue": {"b": 1}}}}, "'blue' of 'wall' needs a list"),
        ({"factors": {"wall": {"red": ["a"], "blue": [["b"]]}}}, "'blue' of 'wall' needs a list"),
        ({"factors": ["wall"]}, "factors must be names"),
        ({"factors": {"wall": ["red", "blue"]}}, "'wall' needs two values"),
        ({"factors": {"": {"red": ["a"], "blue": ["b"]}}}, "'' is no name"),
        ({"factors": WALL, "template": ["a {}"]}, "'template' is unknown"),
        ({"factors": WALL, "templates": "a {}"}, "templates must be a list"),
        ({"factors": WALL, "templates": []}, "templates must be a list"),
        ({"factors": WALL, "templates": ["a photo"]}, "'a photo' must be a text with {} in it"),
        ({"factors": WALL, "templates": ["{}", {"a": "{}"}]}, "must be a text with {} in it"),
        ({"factors": WALL, "templates": ["a {} by {}"]}, "'a {} by {}' must have one {} and no other brace"),
        ({"factors": WALL, "templates": ["a {x}"]}, "'a {x}' must be a text with {} in it"),
        ({"factors": WALL, "templates": ["{} and {x}"]}, "'{} and {x}' must have one {}"),
        ({"factors": WALL, "templates": ["{{}}"]}, "'{{}}' must have one {}"),
        ({"factors": WALL, "labels": ["wall hue"]}, "labels must be names of factors"),
        ({"factors": WALL, "labels": []}, "labels must be names of factors"),
        ({"factors": WALL, "labels": "wall hue"}, "labels must be names of factors"),
        ({"factors": WALL, "labels": {"wall": ["hue"]}}, "the label of 'wall' must be one text"),
        ({"factors": WALL, "labels": {"floor": "hue"}}, "labels has 'floor', which is no factor"),
    ],
)
def test_bad_files_are_named_with_an_example(tmp_path, content, says):
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=re.escape(says)) as error:
        read_prompts(path)
    assert "prompts.yaml" in str(error.value) and "\n" not in str(error.value)


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "prompts.yaml"
    path.write_bytes(text.encode(encoding))
    return path


WORDS = ["yes", "no", "on", "Off", "007", "7", "1.0", "1e3", "12:30:45", "2020-01-01", "null", "~"]
WORDS += ["True", "{x}"]


def test_names_and_texts_are_what_is_written(tmp_path):
    values = "\n".join(f"    {word}: [a {word} day, {word}]" for word in WORDS if word != "{x}")
    text = f"factors:\n  no:\n{values}\n    '{{x}}': ['a {{x}} {{}} day']\n  off: {{on: [yes], 1: [no]}}\n"
    prompts = read_prompts(write(tmp_path, text + "labels: {no: 1.0}\n"))
    assert list(prompts.factors) == ["no", "off"] and list(prompts.factors["no"]) == WORDS
    assert prompts.factors["no"]["007"] == ["a 007 day", "007"]
    assert prompts.factors["off"] == {"on": ["yes"], "1": ["no"]} and prompts.labels == {"no": "1.0"}


def test_braces_in_a_text_stay(prompts):
    prompts.factors = {"set": {"one": ["{1}"], "all": ["{} and {x}"]}}
    seen = []

    def encode_text(texts):
        seen.extend(texts)
        return torch.nn.functional.normalize(torch.randn(len(texts), 5), dim=1)

    embed_prompts(encode_text, prompts)
    assert seen == ["{1}", "a {1}", "{} and {x}", "a {} and {x}"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_other_editors(tmp_path, encoding):
    text = "factors: {größe: {klein: [ein kleiner Würfel], groß: [ein großer]}}\r\nlabels:\r\n"
    prompts = read_prompts(write(tmp_path, text, encoding))
    assert list(prompts.factors["größe"]) == ["klein", "groß"] and not prompts.labels


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("{red: [a red wall], blue: [a red wall]}", "'red' and 'blue' have the same texts"),
        ("{red: [a red wall], blue: [A  RED wall ]}", "'red' and 'blue' have the same texts"),
        ("{red: [a, b], green: [c], blue: [b, a, B]}", "'red' and 'blue' have the same texts"),
        ("{red: [a], Red: [b]}", "'red' and 'Red' have the same name"),
        ("{red: [a], ' red': [b]}", "'red' and ' red' have the same name"),
    ],
)
def test_values_that_are_the_same_are_named(tmp_path, values, says):
    with pytest.raises(UserError, match=f"values of 'wall' {says}"):
        read_prompts(write(tmp_path, f"factors: {{wall: {values}}}"))


def test_factors_that_are_the_same_are_named(tmp_path):
    text = "factors: {wall: {red: [a], blue: [b]}, floor: {azure: [B], crimson: [A]}}"
    with pytest.raises(UserError, match="the factors 'wall' and 'floor' have the same values"):
        read_prompts(write(tmp_path, text))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ((["a red wall"], ["a red, wall!"]), "'red' and 'blue' of 'wall' as the same"),
        ((["a red wall", "red."], ["a red 1 wall", "red?"]), "'red' and 'blue' of 'wall' as the same"),
        ((["a red wall"], ["a red" + " wall" * 30]), "'a photo of a red wall wall.*' is too long"),
    ],
)
def test_a_tokenizer_that_reads_two_values_as_one(random_clip, texts, says):
    prompts = Prompts({"wall": dict(zip(("red", "blue"), texts, strict=True))}, ["a photo of {}"], {})
    with pytest.raises(UserError, match=says):
        embed_prompts(random_clip.encode_text, prompts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("factors:\n\twall: {red: [a], blue: [b]}", "line 2: .*indent with spaces"),
        ("factors:\n  wall:\n  \t red: [a]", "line 3: .*indent with spaces"),
        ("factors:\n  wall: {red: [a], blue: [b], red: [c]}", "line 2: 'red' stands there twice"),
        ("factors:\n  a: {b: [c], d: [e]}\n  a: {f: [g], h: [i]}", "line 3: 'a' stands there twice"),
        ("factors: {wall: {red: [a], [b]: [b]}}", "line 1: .*found unhashable key"),
        ("factors: &a {wall: *a}", "recursive"),
        ("a: 1\n---\nb: 2", "single document"),
        ("[" * 3000, "nested too deeply"),
        ("a: \0", "not valid YAML"),
        ("", "there are no factors"),
    ],
)
def test_yaml_that_is_none_is_one_sentence_with_the_line(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as error:
        read_prompts(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot read the prompts"):
        read_prompts(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_prompts(tmp_path / "bad.yaml")
