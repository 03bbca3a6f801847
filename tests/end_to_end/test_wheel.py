"""The wheel: it brings all that the command needs, and works in an empty folder without the checkout."""

import email
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ("configs", "prompts", "pretrained")
PARTS = (
    *DATA,
    "disdiff",
    "ldm",
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
LEFT_OUT = shutil.ignore_patterns("fid", "__pycache__", "*.orig")


def run(*words, **options):
    """Run a program to its end; returns what it said."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(
        list(map(str, words)), env=environment, capture_output=True, text=True, check=False, **options
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of a wheel that is built from a copy of the checkout, which so stays clean."""
    pytest.importorskip("setuptools", "77", reason="builds with setuptools 77 or later")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=LEFT_OUT)
        else:
            shutil.copyfile(ROOT / name, source / name)
    build = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target, ".")
    run(sys.executable, "-m", *build, cwd=source)
    (path,) = target.glob("disdiff-*.whl")
    return path


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    """Path of the command `disdiff` in an environment with the wheel and all that is installed here."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    python = place / "bin" / "python"
    options = ("--quiet", "--no-deps", "--no-index", "--ignore-installed", "--prefix", place)
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    return place / "bin" / "disdiff"


def test_the_wheel_brings_code_data_licence_and_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        (entries,) = [name for name in names if name.endswith("entry_points.txt")]
        content, entry_points = archive.read(metadata).decode(), archive.read(entries).decode()
    tracked = run("git", "ls-files", "disdiff", "ldm", *DATA, cwd=ROOT).split("\n")[:-1]
    wanted = {f"disdiff/_data/{name}" if name.split("/")[0] in DATA else name for name in tracked}
    assert names >= wanted
    strangers = {name for name in names - wanted if ".dist-info/" not in name}
    assert not {name for name in strangers if "fid/" in name or "__pycache__" in name}
    assert not {name for name in names if name.split("/")[0] in (*DATA, "tests", "scripts", "benchmarks")}
    facts = email.message_from_string(content)
    assert (facts["Name"], facts["License"], facts["License-File"]) == ("disdiff", "MIT", "LICENSE")
    assert "disdiff = disdiff.commands.app:main" in entry_points


@pytest.mark.slow
def test_an_installed_wheel_shows_trains_and_swaps_in_an_empty_folder(command, tmp_path):
    assert run(command, "--version", cwd=tmp_path).startswith("disdiff ")
    data = next(command.parents[1].glob("lib/python*/site-packages/disdiff/_data"))
    before = sorted(data.rglob("*"))
    assert "unit 1 · wall hue 1.00" in run(command, "demo", cwd=tmp_path)
    assert (tmp_path / "disdiff-demo" / "report.html").is_file()
    words = ("--base", "configs/disdiff/shapes3d.yaml", "preset=smoke", "trainer.threads=1")
    assert "results in runs/disdiff-shapes3d-smoke-s0" in run(command, "train", *words, cwd=tmp_path)
    run(command, "swap", "runs/disdiff-shapes3d-smoke-s0", cwd=tmp_path)
    assert (tmp_path / "edits" / "disdiff-shapes3d-smoke-s0-swap.png").is_file()
    run(command, "swap", "pretrained/shapes3d", "--units", "1", cwd=tmp_path)
    assert (tmp_path / "edits" / "pretrained" / "shapes3d-swap.png").is_file()
    discover = ("discover", "pretrained/shapes3d", "--prompts", "prompts/shapes3d.yaml", "--images", "4")
    run(command, *discover, "--steps", "2", cwd=tmp_path)
    assert (tmp_path / "edits" / "pretrained" / "shapes3d" / "discovery.json").is_file()
    train = ("compare", "--train", "--systems", "beta_vae", "--preset", "smoke", "--set", "trainer.threads=1")
    assert "beta_vae" in run(command, *train, cwd=tmp_path)
    assert sorted(data.rglob("*")) == before  # nothing is written into the installation
