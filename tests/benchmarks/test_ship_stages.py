"""Shipped stages: trained longer than the preset, and found by runs of the preset."""

import pytest

from disdiff.config.schema import load_config
from disdiff.runs import stages
from disdiff.runs.context import open_context

BASE = "configs/latent_diffusion/shapes3d.yaml"
TINY = [
    *("preset=smoke", "data.procedural=always", "data.num_train=64", "evaluation.num_images=64"),
    *("autoencoder.train.images=32", "latent_diffusion.train.images=64", "trainer.threads=1"),
]


def test_a_run_of_the_preset_finds_stages_that_were_trained_longer(load_benchmark, tmp_path, monkeypatch):
    ship_stages = load_benchmark("ship_stages")
    monkeypatch.setattr(stages, "PRETRAINED", tmp_path)
    overrides = [*TINY, f"run.root={tmp_path / 'runs'}"]
    words = ["--base", BASE, "--into", str(tmp_path / "shapes3d"), *overrides]
    words += ["--images", "autoencoder=64", "--images", "latent_diffusion=128", "seed=3"]
    ship_stages.main(ship_stages.make_parser().parse_args(words))
    for name, images in {"autoencoder": 64, "latent_diffusion": 128}.items():
        found = open_context(load_config([BASE], overrides)).stages[name]
        assert found.trained and found.folder == tmp_path / "shapes3d" / "stages" / name
        assert found.record["images"] == images and found.record["hash"] == found.hash
        assert found.record["trained_as"] != found.hash
        assert (
            not open_context(load_config([BASE], [*overrides, "stages.pretrained=false"]))
            .stages[name]
            .trained
        )


@pytest.mark.parametrize("text", ["autoencoder", "code=5", "autoencoder=many"])
def test_a_budget_that_is_none_is_refused(text, load_benchmark, tmp_path):
    ship_stages = load_benchmark("ship_stages")
    with pytest.raises(SystemExit) as stop:
        ship_stages.make_parser().parse_args(["--base", BASE, "--into", str(tmp_path), "--images", text])
    assert stop.value.code == 2
