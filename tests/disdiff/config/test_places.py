"""What ships is found from any folder, one's own files come first, installed files stay as they are."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import disdiff
from disdiff.clip.prompts import read_prompts
from disdiff.clip.tower import load_clip
from disdiff.config import places, version
from disdiff.config.clip_options import ClipConfig
from disdiff.config.places import CONFIGS, PRETRAINED, PROMPTS, ROOT, find
from disdiff.config.schema import load_config
from disdiff.interop.exporting import make_portable
from disdiff.runs.campaign import find_configs
from disdiff.runs.run_folder import load_run
from ldm.errors import UserError


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ("configs/disdiff/shapes3d.yaml", CONFIGS / "disdiff" / "shapes3d.yaml"),
        ("./configs/pdae/folder.yaml", CONFIGS / "pdae" / "folder.yaml"),
        ("prompts/shapes3d.yaml", PROMPTS / "shapes3d.yaml"),
        ("pretrained/shapes3d", PRETRAINED / "shapes3d"),
        ("pretrained/tiny_clip/", PRETRAINED / "tiny_clip"),
    ],
)
def test_what_ships_is_found_from_an_empty_folder(empty, given, there):
    assert find(given) == there and there.exists()


@pytest.mark.parametrize(
    "given", ["configs/none.yaml", "runs/x", "main.py", "tests", ".", "/configs", "a/configs"]
)
def test_other_paths_stay_as_they_are(empty, given):
    assert find(given) == Path(given)


def test_a_file_of_ones_own_comes_first(empty):
    own = empty / "configs" / "disdiff" / "shapes3d.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("bases: [shapes3d]\nsystem: pdae\n")
    assert load_config(["configs/disdiff/shapes3d.yaml"]).system == "pdae"
    assert find_configs(["disdiff"], "shapes3d") == [CONFIGS / "disdiff" / "shapes3d.yaml"]
    assert find_configs(["pdae"], "shapes3d") == [Path("configs/pdae/shapes3d.yaml")]


def test_a_configuration_has_the_same_name_from_anywhere(empty):
    config = load_config(["configs/disdiff/ablations/vq.yaml"])
    assert config.run.name == "disdiff-ablations-vq-small-s0"
    assert config == load_config([CONFIGS / "disdiff" / "ablations" / "vq.yaml"])


def test_a_missing_configuration_is_named_as_it_was_given(empty):
    with pytest.raises(UserError, match="cannot read the configuration configs/disdiff/none.yaml"):
        load_config(["configs/disdiff/none.yaml"])


def test_a_guided_run_finds_its_clip_and_prompts(empty):
    config = load_config(["configs/disdiff/shapes3d_clip.yaml"])
    assert read_prompts(config.clip.prompts).factors
    assert load_clip(config.clip).description.model == "local-dir:tiny_clip"
    weights = "pretrained/tiny_clip/open_clip_model.safetensors"
    assert find(weights).is_file()
    (empty / "exported").mkdir()
    portable = make_portable(config, empty / "exported")
    assert portable.clip == ClipConfig("local-dir:clip/tiny_clip", None, "clip/shapes3d.yaml")
    assert (empty / "exported" / "clip" / "shapes3d.yaml").is_file()


def test_the_shipped_model_loads_from_an_empty_folder(empty):
    assert load_run("pretrained/shapes3d").folder == PRETRAINED / "shapes3d"


def test_results_of_an_installed_run_go_into_the_working_directory(empty, monkeypatch):
    run = PRETRAINED / "shapes3d"
    assert places.results_folder(run) == run  # in a checkout
    monkeypatch.setattr(places, "INSTALLED", True)
    assert places.results_folder(run) == Path("edits/pretrained/shapes3d")
    for own in (empty / "runs" / "x", Path("pretrained/mine"), Path("x")):
        assert places.results_folder(own) == own


def test_the_version_is_that_of_setup_cfg(monkeypatch):
    (line,) = [
        text for text in (ROOT / "setup.cfg").read_text().splitlines() if text.startswith("version = ")
    ]
    assert disdiff.__version__ == line.removeprefix("version = ")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == disdiff.__version__
    monkeypatch.setattr(version, "INSTALLED", True)
    monkeypatch.setattr(version.metadata, "version", lambda name: {"disdiff": "9.8"}[name])
    assert version.find_version() == "9.8"

    def missing(name):
        raise version.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version.metadata, "version", missing)
    assert version.find_version() == "0+unknown"


@pytest.mark.parametrize("kind", ["package", "module", "overwritten"])
def test_another_package_named_ldm_is_told_in_one_sentence(tmp_path, kind):
    place = tmp_path / "ldm" / "__init__.py" if kind != "module" else tmp_path / "ldm.py"
    if kind == "overwritten":  # the other project installed over ours
        shutil.copytree(ROOT / "ldm", tmp_path / "ldm")
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import disdiff"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    last = process.stderr.splitlines()[-1]
    assert process.returncode == 1 and last.startswith("ImportError: disdiff needs its own package `ldm`")
    assert str(tmp_path / "ldm") in last and "separate environment" in last
