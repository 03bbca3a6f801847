import pytest
import torch

from disdiff.clip.discovery import Finding
from disdiff.clip.displacement import UnitEditor
from disdiff.clip.text_edit import find_unit, judge_edit, move_unit
from disdiff.editing.units import Directions
from disdiff.evaluation.probe import Probe
from disdiff.runs.discovery import slug
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError


def test_the_best_unit_of_a_name_is_found():
    findings = [
        Finding(0, "named", 1.0, name="wall", score=0.6),
        Finding(3, "named", 1.0, name="wall", score=0.8),
        Finding(4, "not named", 1.0, name="sky", score=0.9),
    ]
    assert find_unit(findings, "wall").unit == 3
    with pytest.raises(UserError, match="no unit has the name 'sky'; names are: wall"):
        find_unit(findings, "sky")
    with pytest.raises(UserError, match="no unit has a name"):
        find_unit(findings[2:], "wall")


def test_each_image_takes_the_farthest_value_that_an_image_has(model, halves):
    image = to_float(halves.images(torch.arange(6)))
    code = model.encode(image)
    directions = Directions(code.mean(dim=0), torch.eye(2)[torch.tensor([0, 1, 0])], torch.ones(3))
    editor, seen = UnitEditor(model, image, directions, SamplerConfig("ddim", 3, 0.0)), []
    editor.decode = lambda part, units=None: seen.append(part) or torch.zeros(len(part), 3, 16, 16)
    move_unit(editor, 1)
    before, after = seen
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    for own, taken in zip(before[:, 1], after[:, 1], strict=True):
        distance = (before[:, 1] - own).norm(dim=1)
        assert (taken - own).norm() == pytest.approx(distance.max().item()) and (before[:, 1] == taken).any()
    editor.code = editor.code[:1]
    with pytest.raises(UserError, match="--images"):
        move_unit(editor, 1)


def test_an_edit_is_judged_by_what_the_probe_sees_change(halves, monkeypatch):
    probe = Probe(halves.factor_space, 16)
    monkeypatch.setattr(
        probe,
        "predict",
        lambda image: torch.stack([(image[:, 0, 0, 0] > 0).long(), (image[:, 2, 0, 15] > 0).long()], dim=1),
    )
    before = -torch.ones(10, 3, 16, 16)
    after = before.clone()
    after[:8, 0, 0, 0] = 1.0  # the left half in eight images, the right in one
    after[0, 2, 0, 15] = 1.0
    result = judge_edit(probe, before, after, ["brightness", "scale"], "brightness")
    assert result["changed"] == pytest.approx(0.8) and result["kept_min"] == result[
        "kept_mean"
    ] == pytest.approx(0.9)
    assert result["changes"] == pytest.approx({"brightness": 0.8, "scale": 0.1})
    # values 0 and 1 of an ordered factor are neighbours
    assert result["kept_within_one_min"] == result["kept_within_one_mean"] == 1.0
    assert "changed" not in judge_edit(probe, before, after, ["brightness", "scale"], "mood")


@pytest.mark.parametrize(
    ("name", "file"),
    [("wall  colour", "wall-colour"), ("shape/size", "shape-size"), ("../up", "..-up"), ("größe", "größe"),
     ("a" * 300, "a" * 80)],
)  # fmt: skip
def test_a_name_is_no_path_in_the_name_of_a_picture(name, file):
    assert slug(name) == file
