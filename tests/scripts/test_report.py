import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from disdiff.report.album import PARTS
from ldm.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_folder(tmp_path):
    """Of an earlier version: metrics, weights and codes, but no pictures."""
    metrics = {"system": "disdiff", "dataset": {"name": "shapes3d", "procedural": False}, "scores": None}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    for name in ("stages/factors/model.safetensors", "codes.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def call(script, run_folder, monkeypatch, capsys):
    """Return a function that runs the script with a `draw` of its own: which parts it drew, what it said."""
    drawn = []
    monkeypatch.setattr(script, "draw", lambda arguments, parts, seed: drawn.append((list(parts), seed)))
    monkeypatch.setattr(script, "write_report", lambda run, out: out or run / "report.html")

    def run(*arguments):
        drawn.clear()
        monkeypatch.setattr(sys, "argv", ["report", str(run_folder), *map(str, arguments)])
        script.run_script(script.main, script.make_parser())
        return drawn, capsys.readouterr()

    return run


def test_what_an_earlier_version_did_not_draw_is_drawn_with_the_run_s_seed(call, run_folder):
    assert call()[0] == [(["traversal", "fields"], None)]
    for name in ("traversal.png", "fields.png"):
        (run_folder / name).touch()
    assert call()[0] == [(["traversal"], None)]  # its frames are missing
    (run_folder / "frames.json").touch()
    assert call()[0] == []
    assert call("--pictures", "--seed", 3)[0] == [(list(PARTS), 3)]


@pytest.mark.parametrize("name", ["stages/factors/model.safetensors", "codes.npz"])
def test_without_weights_or_codes_the_folder_is_enough(call, run_folder, name):
    (run_folder / name).unlink()
    drawn, said = call()
    assert drawn == [] and said.out.strip() == str(run_folder / "report.html")


def test_a_run_that_cannot_be_drawn_still_has_a_report(script, call, monkeypatch):
    def draw(*arguments):
        raise UserError("the weights are gone")

    monkeypatch.setattr(script, "draw", draw)
    said = call()[1]
    assert (
        "no pictures of traversal and fields: the weights are gone" in said.err and "report.html" in said.out
    )


def test_pictures_are_not_drawn_of_other_data_than_the_run_s(script, run_folder, monkeypatch):
    source = SimpleNamespace(name="shapes3d", procedural=True)
    run = SimpleNamespace(
        source=source,
        config=None,
        codes=dict,
        metrics=lambda: json.loads((run_folder / "metrics.json").read_text()),
    )
    monkeypatch.setattr(script, "load_run", lambda folder, device: run)
    arguments = script.make_parser().parse_args([str(run_folder), "--device", "cpu"])
    with pytest.raises(UserError, match="made on real shapes3d, but here are procedural images"):
        script.draw(arguments, ["fields"], None)
