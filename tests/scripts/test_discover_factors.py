import json

import pytest
import torch

from disdiff.clip.tiny import NAME, build_tiny_clip, describe_training, save_tiny_clip
from disdiff.config.schema import CONFIGS
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.source import split_indices
from ldm.files import load_json, save_json

PROMPTS = CONFIGS.parent / "prompts" / "shapes3d.yaml"
FAST = ("--images", 3, "--steps", 2, "--device", "cpu")


@pytest.fixture
def run_folder(tmp_path, named_run):
    """A tiny run on noise for images, and an untrained tiny CLIP in its usual place."""
    source = ProceduralShapes3D()
    data, metrics = {"name": source.name, "procedural": True}, load_json(named_run / "metrics.json")
    save_json(named_run / "metrics.json", {**metrics, "dataset": data})
    torch.manual_seed(0)
    record = {"trained_on": describe_training(source, 50_000), "zero_shot": {}}
    save_tiny_clip(tmp_path / "pretrained" / "tiny_clip", build_tiny_clip()[0], record)
    return named_run


@pytest.fixture
def discover(run_folder, load_script, call_script):
    """Return a function that runs discovery on the run: status, output, error."""
    script = load_script("discover_factors")
    return lambda *arguments: call_script(script, run_folder, *FAST, *arguments)


def test_it_leaves_findings_a_picture_and_a_section_of_the_report(discover, run_folder):
    status, said, _ = discover("--prompts", PROMPTS)
    assert status == 0 and "p (Holm)" in said and f"CLIP model: {NAME}" in said
    result = load_json(run_folder / "discovery.json")
    assert [unit["unit"] for unit in result["units"]] == [0, 1, 2]
    assert result["prompts"] == PROMPTS.name and str(run_folder.parent) not in str(result["clip"])
    assert result["clip"]["name"] == NAME and result["judged"]["num_factors"] == 6
    unit = result["units"][0]
    assert 0 <= unit["score"] <= 1 and unit["second"] != unit["name"] and 0 < unit["p_corrected"] <= 1
    trained = set(split_indices(ProceduralShapes3D(), 50_000, 0)[0].tolist())
    assert len(result["index"]) == 3 and not trained & set(result["index"])
    page = (run_folder / "report.html").read_text()
    assert "Discovered names" in page and NAME in page and (run_folder / "discovery.png").exists()
    assert "captions of the same kind" in page


def test_without_prompts_units_are_put_together(discover, run_folder):
    status, said, _ = discover()
    result = load_json(run_folder / "discovery.json")
    assert status == 0 and "p (Holm)" in said
    active = {unit["unit"] for unit in result["units"] if unit["verdict"] != "no effect"}
    assert {unit for group in result["groups"] for unit in group["units"]} == active
    assert all(unit["name"] is None for unit in result["units"]) and "judged" not in result


@pytest.mark.parametrize("way", ["swap", "field"])
def test_other_ways_and_another_folder(discover, run_folder, tmp_path, way):
    status, said, _ = discover("--prompts", PROMPTS, "--by", way, "--out", "found")
    assert status == 0 and load_json(tmp_path / "found" / "discovery.json")["way"] == way
    assert "Discovered names" in (tmp_path / "found" / "report.html").read_text()
    assert not (run_folder / "discovery.json").exists()


def test_a_control_leaves_the_runs_own_findings_alone(discover, run_folder):
    status, said, _ = discover("--prompts", PROMPTS, "--control", "output")
    assert status == 0 and "Control: the gradient decoder with a random output layer" in said
    assert "named correctly" in said
    assert (run_folder / "discovery-control-output.json").exists()
    assert not (run_folder / "discovery.json").exists() and not (run_folder / "report.html").exists()


def test_an_edit_by_name_is_measured_and_shown(discover, run_folder, monkeypatch):
    monkeypatch.setattr("disdiff.clip.discovery.LEVEL", 1.1)  # whatever is found is a name
    monkeypatch.setattr("disdiff.clip.discovery.MIN_EFFECT", 0.0)
    assert discover("--prompts", PROMPTS)[0] == 0
    name = load_json(run_folder / "discovery.json")["units"][0]["name"]
    config = (run_folder / "config.yaml").read_text()
    (run_folder / "config.yaml").write_text(config.replace("probe_steps: 600", "probe_steps: 10"))
    status, said, _ = discover("--prompts", PROMPTS, "--edit", name)
    edit = load_json(run_folder / "discovery.json")["edits"][name]
    assert status == 0 and f"Move the unit named {name}" in said
    assert set(edit["changes"]) == set(ProceduralShapes3D.factor_space.names) and 0 <= edit["changed"] <= 1
    assert (run_folder / edit["picture"]).exists()
    assert f"Edit by name: {name}" in (run_folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "absent.yaml"], "cannot read the prompts absent.yaml"),
        (["--edit", "wall colour"], "--edit needs --prompts"),
        (["--pretrained", "openai"], "--pretrained needs --clip"),
        (["--clip", "local-dir:nowhere"], "nowhere has no CLIP"),
        (["--images", "1"], "it must be at least 2"),
        (["--prompts", PROMPTS, "--edit", "mood"], "no unit has the name 'mood'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(discover, arguments, says):
    status, _, error = discover(*arguments)
    assert status == 2 and says in error.splitlines()[-1]


def test_words_that_the_tiny_clip_does_not_know_are_named(discover, tmp_path):
    factors = {"mood": {"glad": ["a glad room"], "sad": ["a sad room"]}}
    (tmp_path / "mood.yaml").write_text(json.dumps({"factors": factors}))
    status, _, error = discover("--prompts", "mood.yaml")
    assert status == 2 and "does not know the words glad" in error
