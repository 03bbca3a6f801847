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
task.compute_loss({"statistics": statistics}, 0, torch.Generator()).backward()
found = [name for name in sys.modules if name.startswith("disdiff.clip.")]
assert not found, found
"""


@pytest.mark.parametrize("system", UNSUPERVISED)
def test_no_stage_of_another_system_depends_on_the_clip(build_on_noise, system):
    file = CONFIGS / system / "shapes3d.yaml"
    plain, other = (build_on_noise(file, *overrides) for overrides in ((), ANOTHER_CLIP))
    assert plain.config.clip != other.config.clip
    assert {name: stage.hash for name, stage in plain.stages.items()} == {
        name: stage.hash for name, stage in other.stages.items()
    }


def test_an_unsupervised_run_imports_no_clip():
    """Building, training and what comes after work where open_clip cannot be imported."""
    subprocess.run([sys.executable, "-c", PROGRAM, CONFIGS / "disdiff" / "shapes3d.yaml"], check=True)


def test_only_the_guided_system_says_that_it_is_supervised():
    assert all(kind.supervision is None for kind in (ImageInput, LatentInput, FeatureInput))
    assert isinstance(ClipInput.supervision, property)
