"""Nothing of a CLIP reaches an unsupervised run: no import, no key of its stages, no supervision."""

import subprocess
import sys

import pytest

from disdiff.build import SYSTEMS
from disdiff.clip.guided import ClipInput
from disdiff.config.schema import CONFIGS
from disdiff.method.encoder_input import FeatureInput, ImageInput, LatentInput

UNSUPERVISED = sorted(name for name in SYSTEMS if name != "disdiff_clip")
ANOTHER_CLIP = ("clip.model=ViT-L-14", "clip.pretrained=openai", "clip.prompts=any.yaml", "clip.mean=[1,1,1]")
PROGRAM = """
import sys
sys.modules["open_clip"] = None  # whoever imports it fails
import torch
from disdiff.runs import results  # of the end of a run
from disdiff.build import build_disdiff_task, build_denoiser, build_latent_space, build_model
from disdiff.config.schema import load_config
config = load_config([sys.argv[1]], ["preset=smoke"])
space = build_latent_space(config)
model = build_model(config, space, build_denoiser(config, space), 64)
task = build_disdiff_task(config, model, "cpu").train()
statistics = space.autoencoder.encode_statistics(torch.zeros(2, 3, 64, 64))
loss = task.compute_loss({"statistics": statistics}, 0, torch.Generator())
loss.backward()
print(bool(loss.isfinite()), model.supervision)
print([name for name in sys.modules if name.startswith("disdiff.clip.")])
"""


def stage_hashes(context):
    return {name: stage.hash for name, stage in context.stages.items()}


@pytest.mark.parametrize("system", UNSUPERVISED)
def test_no_stage_of_another_system_depends_on_the_clip(build_on_noise, system):
    file = CONFIGS / system / "shapes3d.yaml"
    plain, other = (build_on_noise(file, *overrides) for overrides in ((), ANOTHER_CLIP))
    assert plain.config.clip != other.config.clip
    assert stage_hashes(plain) == stage_hashes(other)


@pytest.fixture(scope="module")
def run_without_open_clip():
    """Return a function that runs the program on a configuration where open_clip cannot be imported."""

    def run(name):
        command = [sys.executable, "-c", PROGRAM, CONFIGS / "disdiff" / name]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_an_unsupervised_run_imports_no_clip(run_without_open_clip):
    """Building, training and what comes after work where open_clip cannot be imported."""
    done = run_without_open_clip("shapes3d.yaml")
    assert done.stdout.splitlines() == ["True None", "[]"], done.stderr


def test_a_guided_run_does(run_without_open_clip):
    """So the program above would notice."""
    done = run_without_open_clip("shapes3d_clip.yaml")
    assert done.returncode == 1 and "open_clip" in done.stderr


def test_only_the_guided_system_says_that_it_is_supervised(build_tiny_disdiff, random_clip):
    space = build_tiny_disdiff().latent_space
    assert {kind.supervision for kind in (ImageInput, LatentInput, FeatureInput)} == {None}
    assert ClipInput(space, random_clip).supervision == f"weak: guided by {random_clip.description.name}"
