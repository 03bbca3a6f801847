"""The main job of the guided system on tiny images; the open_clip architecture of a real CLIP is slow."""

import numpy as np
import pytest
import torch

from disdiff.clip.tower import load_clip
from disdiff.config.clip_options import ClipConfig
from disdiff.config.schema import CONFIGS
from disdiff.runs.discovery import Discovery, Options
from disdiff.runs.encoding import example_batch
from disdiff.runs.pipeline import run_pipeline
from disdiff.runs.run_folder import Run, load_run
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError

GUIDED = CONFIGS / "disdiff" / "shapes3d_clip.yaml"
PROMPTS = CONFIGS.parent / "prompts" / "shapes3d.yaml"


@pytest.fixture
def build(build_on_noise):
    """Return a function that builds a tiny guided context."""
    return lambda *overrides: build_on_noise(GUIDED, *overrides, images=16)


def test_a_guided_run_trains_from_cached_embeddings_and_comes_back(build, make_noise, tmp_path):
    context = build()
    run_pipeline(context)
    (cache,) = (tmp_path / "_stages").glob("clip-*")
    embeddings = np.load(cache / "latents.npy", allow_pickle=False)
    assert embeddings.shape == (24, 64)
    image = make_noise().images(context.train_index) / 127.5 - 1
    torch.testing.assert_close(
        torch.tensor(embeddings), context.model.encoder_input.clip(image), atol=1e-5, rtol=0
    )
    run = load_run(context.folder)
    code, expected = run.model.encode(image[:4]), context.model.eval().encode(image[:4])
    torch.testing.assert_close(code, expected)
    assert code.shape == (4, 6, 1) and run.model.supervision.startswith("weak: guided by tiny CLIP")
    names = {path.name for path in (context.folder / "stages" / "code").iterdir()}
    assert (context.folder / "stages" / "code" / "model.safetensors").stat().st_size < 1e6, names


def test_the_clip_is_part_of_what_the_stage_is(build):
    plain, other = build(), build("clip.mean=[0.3,0.3,0.3]", "clip.std=[0.2,0.2,0.2]")
    assert plain.stages["code"].hash != other.stages["code"].hash
    assert plain.stages["latent_diffusion"].hash == other.stages["latent_diffusion"].hash
    assert set(example_batch(plain, "code", 4)) == {"statistics", "clip"}


def test_what_a_guided_run_needs_is_said(build):
    with pytest.raises(UserError, match="input=z is unknown; choose one of clip"):
        build("code.encoder.input=z")
    with pytest.raises(UserError, match="runs/no-clip has no CLIP"):
        build("clip.model=local-dir:runs/no-clip")


@pytest.mark.slow
def test_a_real_architecture_trains_a_step_and_names_units(build, make_noise, tmp_path):
    """ViT-B/32 with random weights, marked so: what a user with weights gets by setting a path."""
    context = build(
        *("clip.model=ViT-B-32", "clip.pretrained=random", "data.num_train=8", "code.num_units=3"),
        *("code.train.images=8", "evaluation.num_images=8"),
    )
    assert context.model.encoder_input.clip.preprocess.size == 224
    run_pipeline(context)
    assert context.model.supervision == "weak: guided by ViT-B-32 with random weights (means nothing)"
    clip = load_clip(ClipConfig(model="ViT-B-32", pretrained="random"))
    run = Run(context.folder, context.config, context.model.eval())
    run.source = make_noise()
    codes = {"codes": torch.randn(20, 3, 1, generator=torch.Generator().manual_seed(0)).numpy()}
    discovery = Discovery(run, clip, codes, SamplerConfig("ddim", 2, 0.0), Options(num_images=3))
    with torch.inference_mode():
        result = discovery.find(PROMPTS, None)
    assert len(result["units"]) == 3 and "random weights (means nothing)" in result["clip"]["name"]
    assert all(path.exists() for path in discovery.save(result, tmp_path / "found"))
