"""What the README says works: the Python example, the commands' names, the shipped model."""

import re
from pathlib import Path

import pytest
import torch

from disdiff.config.schema import load_config
from disdiff.runs.context import open_context
from disdiff.runs.run_folder import load_run

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SHIPPED = ROOT / "pretrained" / "shapes3d"


def test_the_python_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)  # our own text
    assert names["edited"].shape == (2, 3, 64, 64)
    assert not torch.equal(names["code"], names["swapped"])


def test_every_file_the_readme_names_exists():
    commands = set(re.findall(r"(?:scripts|configs|benchmarks)/[\w/]+\.\w+", README))
    modules = {path.split(":")[0] for path in re.findall(r"`((?:ldm|disdiff)/[\w/]+\.py)", README)}
    missing = [path for path in sorted(commands | modules) if not (ROOT / path).exists()]
    assert commands and modules and not missing


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
