"""The main job of the guided system on tiny images; the open_clip architecture of a real CLIP is slow."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from disdiff import pipeline as module
from disdiff.clip.options import ClipConfig
from disdiff.clip.session import Discovery, Options
from disdiff.clip.tower import load_clip
from disdiff.config import CONFIGS, load_config
from disdiff.pipeline import Pipeline
from disdiff.run import Run, load_run
from ldm.data.factor_space import FactorSpace
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError

GUIDED = CONFIGS / "disdiff" / "shapes3d_clip.yaml"
PROMPTS = CONFIGS.parent / "prompts" / "shapes3d.yaml"
TINY = [
    "preset=smoke",
    "stages.pretrained=false",
    "trainer.device=cpu",
    "data.num_train=24",
    "evaluation.num_images=24",
    "autoencoder.network={patch: 1, channels: 4, channel_mult: [1, 2], num_groups: 2}",
    "latent_diffusion.unet={channels: 8, channel_mult: [1, 2], num_groups: 4}",
    *(
        f"{stage}.train.{key}"
        for stage in ("autoencoder", "latent_diffusion", "factors")
        for key in ("images=16", "batch_size=8")
    ),
]


@dataclass
class Noise:
    """48 images 16x16 of noise that knows its number."""

    name: str = "noise"
    procedural: bool = True
    identity: str = "noise-1"
    image_size: int = 16
    channels: int = 3
    factor_space: FactorSpace = field(default_factory=lambda: FactorSpace(("a", "b"), (6, 8)))

    def __len__(self):
        return 48

    def images(self, index):
        everything = torch.randint(0, 256, (48, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        return everything[index].to(torch.uint8)

    def factors(self, index):
        return self.factor_space.factors(index)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return a function that builds a guided pipeline on noise, without scores and pictures at its end."""
    monkeypatch.setattr("disdiff.results.write_results", lambda *_: None)

    def make(*overrides):
        monkeypatch.setattr(module, "build_source", lambda config: Noise())
        config = load_config([GUIDED], [*TINY, f"run.root={tmp_path}", *overrides])
        return Pipeline(config, lambda line: None)

    return make


def test_a_guided_run_trains_from_cached_embeddings_and_comes_back(build, tmp_path, monkeypatch):
    pipeline = build()
    pipeline.run()
    (cache,) = (tmp_path / "_stages").glob("clip-*")
    embeddings = np.load(cache / "latents.npy", allow_pickle=False)
    assert embeddings.shape == (24, 96)
    image = Noise().images(pipeline.train_index) / 127.5 - 1
    torch.testing.assert_close(torch.tensor(embeddings), pipeline.model.clip(image), atol=1e-5, rtol=0)
    run = load_run(pipeline.folder)
    code, expected = run.model.encode(image[:4]), pipeline.model.eval().encode(image[:4])
    torch.testing.assert_close(code, expected)
    assert code.shape == (4, 6, 1) and run.model.supervision.startswith("weak: guided by tiny CLIP")
    names = {path.name for path in (pipeline.folder / "stages" / "factors").iterdir()}
    assert (pipeline.folder / "stages" / "factors" / "model.safetensors").stat().st_size < 1e6, names


def test_the_clip_is_part_of_what_the_stage_is(build):
    plain, other = build(), build("clip.mean=[0.3,0.3,0.3]", "clip.std=[0.2,0.2,0.2]")
    assert plain.stages["factors"].hash != other.stages["factors"].hash
    assert plain.stages["latent_diffusion"].hash == other.stages["latent_diffusion"].hash
    assert set(plain.example_batch("factors", 4)) == {"statistics", "clip"}


def test_what_a_guided_run_needs_is_said(build):
    with pytest.raises(UserError, match="input=z is unknown; choose one of clip"):
        build("factors.encoder.input=z")
    with pytest.raises(UserError, match="runs/no-clip holds no CLIP"):
        build("clip.model=local-dir:runs/no-clip")


@pytest.mark.slow
def test_a_real_architecture_trains_a_step_and_names_units(build, tmp_path):
    """ViT-B/32 with random weights, marked so: what a user with weights gets by setting a path."""
    pipeline = build(
        *("clip.model=ViT-B-32", "clip.pretrained=random", "data.num_train=8", "factors.num_units=3"),
        *("factors.train.images=8", "evaluation.num_images=8"),
    )
    assert pipeline.model.clip.preprocess.size == 224
    pipeline.run()
    assert pipeline.model.supervision == "weak: guided by ViT-B-32 with random weights (means nothing)"
    clip = load_clip(ClipConfig(model="ViT-B-32", pretrained="random"))
    run = Run(pipeline.folder, pipeline.config, pipeline.model.eval())
    run.source = Noise()
    codes = {"codes": torch.randn(20, 3, 1, generator=torch.Generator().manual_seed(0)).numpy()}
    discovery = Discovery(run, clip, codes, SamplerConfig("ddim", 2, 0.0), Options(num_images=3))
    with torch.inference_mode():
        result = discovery.find(PROMPTS, None)
    assert len(result["units"]) == 3 and "random weights (means nothing)" in result["clip"]["name"]
    assert all(path.exists() for path in discovery.save(result, tmp_path / "found"))
