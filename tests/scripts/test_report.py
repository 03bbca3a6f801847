import json
from types import SimpleNamespace

import pytest
import torch

from disdiff.report.album import PARTS
from disdiff.report.sliders import save_frames
from ldm.errors import UserError


@pytest.fixture
def script(load_script):
    return load_script("report")


@pytest.fixture
def run_folder(tmp_path):
    """Of an earlier version: metrics, weights and codes, but no pictures."""
    metrics = {"system": "disdiff", "dataset": {"name": "shapes3d", "procedural": False}, "scores": None}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    for name in ("stages/code/model.safetensors", "codes.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def call(script, call_script, run_folder, monkeypatch):
    """Return a function that runs the script with a `draw` of its own: which parts it drew, what it said and
    what it complained of.
    """
    drawn = []
    monkeypatch.setattr(script, "draw", lambda arguments, parts, seed: drawn.append((list(parts), seed)))
    monkeypatch.setattr(script, "animate", lambda folder: None)
    monkeypatch.setattr(script, "write_report", lambda run, out: out or run / "report.html")

    def run(*arguments):
        drawn.clear()
        _, *said = call_script(script, run_folder, *arguments)
        return drawn, *said

    return run


def test_what_an_earlier_version_did_not_draw_is_drawn_with_the_run_s_seed(call, run_folder):
    assert call()[0] == [(["traversal", "fields"], None)]
    for name in ("traversal.png", "fields.png"):
        (run_folder / name).touch()
    assert call()[0] == [(["traversal"], None)]  # its frames are missing
    (run_folder / "frames.json").touch()
    assert call()[0] == []
    assert call("--pictures", "--seed", 3)[0] == [(list(PARTS), 3)]


def test_a_run_of_an_earlier_version_is_animated_from_its_frames(script, run_folder):
    (run_folder / "codes.npz").unlink()
    script.animate(run_folder)
    assert not (run_folder / "traversal.gif").exists()
    save_frames(run_folder / "frames.json", torch.rand(2, 3, 1, 3, 8, 8), [1, 0], (-1.0, 0.0, 1.0))
    script.animate(run_folder)
    made = (run_folder / "traversal.gif").stat().st_mtime_ns
    script.animate(run_folder)
    assert (run_folder / "traversal.gif").stat().st_mtime_ns == made


@pytest.mark.parametrize("name", ["stages/code/model.safetensors", "codes.npz"])
def test_without_weights_or_codes_the_folder_is_enough(call, run_folder, name):
    (run_folder / name).unlink()
    drawn, said, _ = call()
    assert drawn == [] and said.strip() == str(run_folder / "report.html")


def test_a_run_that_cannot_be_drawn_still_has_a_report(script, call, monkeypatch):
    def draw(*arguments):
        raise UserError("the weights are gone")

    monkeypatch.setattr(script, "draw", draw)
    _, said, complained = call()
    assert (
        "the pictures traversal and fields were not drawn: the weights are gone" in complained
        and "report.html" in said
    )


def test_pictures_are_not_drawn_of_other_data_than_the_run_s(script, run_folder, monkeypatch):
    source = SimpleNamespace(name="shapes3d", procedural=True)
    run = SimpleNamespace(
        source=source,
        config=None,
        require_codes=dict,
        scores=None,
        metrics=lambda: json.loads((run_folder / "metrics.json").read_text()),
    )
    monkeypatch.setattr(script, "load_named_run", lambda arguments: run)
    arguments = script.make_parser().parse_args([str(run_folder), "--device", "cpu"])
    with pytest.raises(UserError, match="trained on real shapes3d, but procedural images were found"):
        script.draw(arguments, ["fields"], None)


@pytest.mark.parametrize("has_unit_fields", [True, False])
def test_only_pictures_that_the_model_can_have_are_drawn(script, run_folder, monkeypatch, has_unit_fields):
    config = SimpleNamespace(seed=0, sampler=None)
    run = SimpleNamespace(
        eval_index=[0, 1],
        source=SimpleNamespace(name="shapes3d", procedural=False),
        config=config,
        model=SimpleNamespace(has_unit_fields=has_unit_fields),
        folder=run_folder,
        require_codes=dict,
        scores=None,
        metrics=lambda: None,
    )
    drawn = []
    monkeypatch.setattr(script, "load_named_run", lambda arguments: run)
    monkeypatch.setattr(script, "make_pictures", lambda *shared, parts: drawn.append(list(parts)))
    arguments = script.make_parser().parse_args([str(run_folder), "--device", "cpu"])
    script.draw(arguments, PARTS, None)
    assert drawn == [[part for part in PARTS if part != "fields" or has_unit_fields]]
    script.draw(arguments, ["fields"], None)
    assert drawn[1:] == ([["fields"]] if has_unit_fields else [])
