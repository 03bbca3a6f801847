"""What the README says works: every command, the Python example, the files it names, the shipped model."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from disdiff.commands.app import main
from disdiff.config.schema import load_config
from disdiff.runs.context import open_context
from disdiff.runs.run_folder import load_run

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SHIPPED = ROOT / "pretrained" / "shapes3d"
SHELL = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^disdiff (.*?)(?:  |$)", SHELL, re.MULTILINE)
QUICK = {
    "swap": ["--steps", "2"],
    "edit": ["--steps", "2"],
    "traverse": ["--steps", "2"],
    "train": ["--dry-run"],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the pictures that the README's commands name, where they run."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    (tmp_path / "PHOTOS").mkdir()
    for k in range(20):
        Image.new("RGB", (80, 64), (10 * k, 100, 200)).save(tmp_path / "PHOTOS" / f"{k}.png")
    for name in ("PICTURE", "photo.png", "other.png"):
        Image.new("RGB", (80, 64), (200, 100, 50)).save(tmp_path / name, "PNG")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, place):
    """With few steps; training as far as its plan, since tests of the whole pipeline train."""
    words = shlex.split(command)
    main([*words, *QUICK.get(words[0], [])])
    made = {
        "swap": "*-swap.png",
        "edit": "*-edit.png",
        "traverse": "*-traversal.png",
        "demo": "traversal.png",
    }
    assert words[0] in ("train", "show") or list(place.rglob(made[words[0]]))


def test_no_command_is_overlooked():
    assert len(COMMANDS) == SHELL.count("disdiff ") - SHELL.count("./disdiff ") >= 9
    assert set(line.split()[0] for line in SHELL.splitlines() if line) <= {"pip", "disdiff"}


def test_the_python_example_runs(place):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)  # our own text
    assert names["swapped"].shape == (1, 3, 64, 64)
    assert not torch.equal(names["swapped"], names["source"])
    assert Image.open(place / "swapped.png").size == (192, 64)


def test_every_file_the_readme_names_exists():
    named = set(re.findall(r"(?:scripts|configs|benchmarks|docs)/[\w/]+\.\w+", README))
    links = set(re.findall(r"\]\((?!http)([\w./]+)\)", README))
    assert named and links and not [path for path in named | links if not (ROOT / path).exists()]


def test_the_readme_is_a_landing_page():
    assert len(README.splitlines()) <= 130
    assert (SHIPPED / "traversal.gif").stat().st_size <= 2**20


@pytest.mark.parametrize("name", ["autoencoder", "latent_diffusion"])
def test_the_default_run_finds_its_first_stages_among_the_shipped_ones(name, tmp_path):
    config = load_config([ROOT / "configs/disdiff/shapes3d.yaml"], [f"run.root={tmp_path}"])
    assert open_context(config).stages[name].folder == SHIPPED / "stages" / name
    config.stages.pretrained = False
    assert not open_context(config).stages[name].trained


def test_the_shipped_model_is_small_and_says_what_it_is():
    run = load_run(SHIPPED)
    metrics = run.metrics()
    assert metrics["dataset"]["procedural"] is True
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) < 16 * 2**20
    assert set(metrics["scores"]) == {"paper"}
