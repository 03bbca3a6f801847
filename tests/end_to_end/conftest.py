"""The main command, shrunk by overrides until all of it takes seconds."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldm.data.procedural import ProceduralShapes3D

ROOT = Path(__file__).resolve().parents[2]
BASE = "configs/disdiff/shapes3d.yaml"
SHRUNK = [
    *("preset=smoke", "stages.pretrained=false", "trainer.device=cpu", "trainer.threads=1"),
    *("data.num_train=1500", "autoencoder.train.images=320", "autoencoder.train.batch_size=16"),
    *("latent_diffusion.train.images=640", "latent_diffusion.train.batch_size=16"),
    *("code.train.images=320", "code.train.batch_size=16"),
    *(
        "sampler.num_steps=2",
        "evaluation.num_images=2000",
        "evaluation.num_pairs=0",
        "evaluation.num_reconstructions=4",
    ),
]


def build_command(root, *overrides, train=True):
    return ["--base", BASE, *(["-t"] if train else []), *SHRUNK, f"run.root={root}", *overrides]


def start_process(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.fixture(scope="session")
def command():
    """Return a function that gives the arguments of main.py for a run under a root."""
    return build_command


@pytest.fixture(scope="session")
def start():
    """Return a function that starts main.py as a process of its own."""
    return start_process


@pytest.fixture(scope="session")
def read_weights():
    """Return a function that gives the bytes of the three stages' weights in a run folder."""

    def read(folder):
        paths = sorted((folder / "stages").glob("*/model.safetensors"))
        return {path.parent.name: path.read_bytes() for path in paths}

    return read


@pytest.fixture(scope="session")
def finished(tmp_path_factory, command, start):
    """Root of a run that nothing interrupted, and what it said."""
    root = tmp_path_factory.mktemp("finished")
    process = start(*command(root))
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return root, said


@pytest.fixture(scope="session")
def maps():
    return ProceduralShapes3D().maps(torch.arange(480))


@pytest.fixture
def call(maps, monkeypatch, capsys):
    """Return a function that calls main.py within this process: (exit status, stdout, stderr)."""
    spec = importlib.util.spec_from_file_location("entry_point", ROOT / "main.py")
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    monkeypatch.setattr(ProceduralShapes3D, "maps", lambda self, geometry: maps[geometry])
    monkeypatch.chdir(ROOT)
    threads = torch.get_num_threads()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        capsys.readouterr()
        try:
            entry.run_script(entry.main, entry.make_parser())
        except SystemExit as stop:
            return stop.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    yield run
    torch.set_num_threads(threads)
