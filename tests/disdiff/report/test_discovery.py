import pytest
from PIL import Image

from disdiff.report.discovery import FILE, PICTURE, describe_edit, format_findings, load_discovery
from disdiff.report.elements import render
from ldm.files import save_json

NAMED = {
    "unit": 0,
    "verdict": "named",
    "effect": 0.8,
    "name": "wall colour",
    "values": ["red", "cyan"],
    "score": 0.9,
    "second": "size",
    "margin": 0.6,
    "consistency": 1.0,
    "p": 1e-5,
    "p_corrected": 2e-5,
}
GUESS = NAMED | {"unit": 1, "verdict": "not named", "name": "size", "p_corrected": 0.4}
STILL = NAMED | {
    "unit": 2,
    "verdict": "no effect",
    "name": None,
    "values": None,
    "score": None,
    "margin": None,
}
EDIT = {
    "unit": 0,
    "picture": "edit-wall-colour.png",
    "changes": {"wall hue": 0.9, "scale": 0.1},
    "num_images": 48,
    "changed": 0.9,
    "kept_mean": 0.85,
    "kept_min": 0.7,
    "kept_within_one_mean": 0.95,
    "kept_within_one_min": 0.8,
}


@pytest.fixture
def result():
    accuracy = {"floor hue": 0.99, "scale": 0.75}
    return {
        "clip": {"name": "tiny CLIP trained on captions", "zero_shot": {"accuracy": accuracy}},
        "way": "traverse",
        "amount": 2.0,
        "num_images": 48,
        "control": None,
        "chance": "random directions",
        "num_draws": 20_000,
        "units": [NAMED, GUESS, STILL],
        "judged": {
            "num_factors_right": 1,
            "num_factors": 6,
            "factors_right": ["wall hue"],
            "units_wrong": {"1": {"name": "size", "peak": "shape"}},
        },
        "edits": {"wall colour": EDIT},
    }


def test_the_table_says_what_is_a_name_and_what_a_guess(result):
    lines = format_findings(result).splitlines()
    assert len({line.find("verdict") for line in lines if "verdict" in line}) == 1
    assert "named" in lines[2] and " wall colour " in lines[2] and "red to cyan" in lines[2]
    assert "2.0e-05" in lines[2] and "(size)" in lines[3] and "no effect" in lines[4]
    text = "\n".join(lines)
    assert "CLIP model: tiny CLIP trained on captions. 48 images" in text
    assert "1 of 6 factors are named correctly (wall hue); wrong names: unit 1 (size: shape)" in text
    assert "Control" not in text
    assert "Every name found here is false" in format_findings(result | {"control": "a random output layer"})


def test_an_edit_is_one_sentence():
    said = describe_edit("wall colour", EDIT)
    assert said.startswith("Move the unit named wall colour (unit 0): it changes in 90% of 48 images, ")
    assert "the others stay in 85% (worst 70%; 95% and 80% if" in said
    assert said.endswith("changed factors: wall hue 90%, scale 10%.")
    unknown = {key: value for key, value in EDIT.items() if not key.startswith(("changed", "kept"))}
    assert "with the fraction of images: wall hue 90%" in describe_edit("mood", unknown)
    assert "no labels" in describe_edit("mood", {"unit": 3})


def show(folder):
    return render("discovery.html", discovery=load_discovery(folder))


def test_the_section_has_table_pictures_and_edits_and_says_where_words_come_from(result, tmp_path):
    assert show(tmp_path).strip() == ""
    save_json(tmp_path / FILE, result)
    for name in (PICTURE, EDIT["picture"]):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    page = show(tmp_path)
    assert "was trained on captions of the same kind of images" in page
    assert "floor hue 0.99, scale 0.75" in page
    assert page.count("<img") == 2 and "Edit by name: wall colour" in page
    open_world = result | {"clip": {"name": "ViT-B-32 (<tag>)"}}
    save_json(tmp_path / FILE, open_world)
    page = show(tmp_path)
    assert "captions of the same kind" not in page and "ViT-B-32 (&lt;tag&gt;)" in page
