import pytest
import torch
import yaml

from disdiff.clip.prompts import embed_prompts, principal_text_axes, read_prompts
from ldm.errors import UserError


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
        ({"factors": {"wall": {"red": ["a"], "no": [False]}}}, "quote words"),
        ({"factors": {"wall": {"red": ["a"], "blue": ["b"]}}, "templates": ["a photo"]}, "with {} in them"),
    ],
)
def test_bad_files_are_named_with_an_example(tmp_path, content, says):
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=says) as error:
        read_prompts(path)
    assert "prompts.yaml" in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot read the prompts"):
        read_prompts(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_prompts(tmp_path / "bad.yaml")
