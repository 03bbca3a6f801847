"""The main command under torchrun: two processes on the CPU train and share caches, one evaluates."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from ldm.training.log import read_log

NAME = "disdiff-shapes3d-smoke-s0"
STAGES = ("autoencoder", "latent_diffusion", "code")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "main.py")
# what a job finds under SLURM, where one task per machine starts torchrun
SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "disdiff", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
FREQUENT = [f"{stage}.train.checkpoint_seconds=0" for stage in STAGES]


@pytest.fixture(scope="module")
def launch(command, pytestconfig):
    """Return a function that starts main.py in two processes for a run under a root."""

    def start_two(root, *overrides):
        return subprocess.Popen(
            [sys.executable, *LAUNCHER, *command(root, *overrides)],
            cwd=pytestconfig.rootpath, env={**os.environ, **SLURM, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start_two


@pytest.fixture(scope="module")
def shared(launch, tmp_path_factory):
    """Root of a run by two processes that nothing interrupted, with batches in parts, and what it said."""
    root = tmp_path_factory.mktemp("shared")
    process = launch(root, "trainer.accumulate=2")
    said, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors[-4000:]
    return root, said


def load_metrics(root):
    return json.loads((root / NAME / "metrics.json").read_text())


def list_files(folder):
    """Files of a run folder."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def check_training(folder, expected):
    """Check that stages were trained as in another run folder, to what float32's rounding grows to.

    Adam divides a gradient by its size, so weights with hardly any, as of an encoder behind a decoder that is
    zero at first, go where rounding sends them: losses agree far better than weights. That gradients are the
    same is tested in float64, in tests/ldm/training.
    """
    for name in STAGES:
        rows = [read_log(run / "stages" / name / "log.csv")[-1] for run in (folder, expected)]
        ours, theirs = ({term: float(row[term]) for term in ("step", "loss")} for row in rows)
        assert ours == pytest.approx(theirs, rel=1e-3), name
        files = (run / "stages" / name / "model.safetensors" for run in (folder, expected))
        weights = [sorted(load_file(file).items()) for file in files]
        ours, theirs = (torch.cat([tensor.double().flatten() for _, tensor in each]) for each in weights)
        assert (ours - theirs).norm() < 0.05 * theirs.norm(), name


@pytest.mark.slow
def test_two_processes_train_what_one_does(shared, finished):
    check_training(shared[0] / NAME, finished[0] / NAME)
    steps = {name: stage["steps"] for name, stage in load_metrics(shared[0])["stages"].items()}
    assert steps == {"autoencoder": 20, "latent_diffusion": 40, "code": 20}


@pytest.mark.slow
def test_one_of_them_talks_and_writes(shared, finished):
    root, said = shared
    assert [said.count(text) for text in ("results in", "preset smoke", "trained in")] == [1, 1, 3]
    ours, theirs = (list_files(of / NAME) for of in (root, finished[0]))
    assert ours == theirs
    assert len(list(root.glob("_stages/latents-*"))) == 1
    assert not [*root.rglob(".*.part*"), *root.rglob("resume.ckpt")]


@pytest.mark.slow
def test_the_evaluation_is_that_of_one_process(shared, call, command, tmp_path):
    root = shutil.copytree(shared[0], tmp_path / "runs")
    for name in ("metrics.json", "codes.npz"):
        (root / NAME / name).unlink()
    status, said, errors = call(*command(root))
    assert status == 0, errors
    assert said.count("loaded from") == 3
    ours, theirs = load_metrics(root), load_metrics(shared[0])
    for part in ("scores", "editing", "reconstruction"):
        assert ours[part] == theirs[part]


@pytest.mark.slow
def test_what_two_began_one_ends(launch, call, command, finished, tmp_path):
    process = launch(tmp_path, *FREQUENT)
    while not list(tmp_path.glob("_stages/latent_diffusion-*/resume.ckpt")):
        assert process.poll() is None, process.communicate()[1][-4000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # torchrun ends both
    process.communicate(timeout=120)
    assert process.returncode
    status, said, errors = call(*command(tmp_path, *FREQUENT))
    assert status == 0, errors
    assert said.count("loaded from") == 1 and said.count("trained in") == 2
    check_training(tmp_path / NAME, finished[0] / NAME)
