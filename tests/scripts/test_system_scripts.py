"""Scripts on runs of other systems: new codes, the mean gap, the stages of the correction, interpolations."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disdiff.build import build_latent_dpm
from disdiff.config.schema import to_yaml
from ldm.files import save_json
from ldm.training.weight_files import save_weights

SHORT = ("sampler.num_steps=2", "evaluation.num_images=100", "data.num_train=64")


@pytest.fixture
def make_run(tmp_path, build_tiny_system, noise_images, monkeypatch):
    """Return a function that writes a run of an untrained tiny system on images of noise."""
    monkeypatch.chdir(tmp_path)

    def make(system):
        config, parts, model = build_tiny_system(system, *SHORT)
        parts |= {"code": model.networks, "latent_dpm": build_latent_dpm(config, model)}
        for name, module in parts.items():
            save_weights(Path("runs") / system / "stages" / name / "model.safetensors", module)
            save_json(Path("runs") / system / "stages" / name / "stage.json", {"image_size": 64})
        (Path("runs") / system / "config.yaml").write_text(to_yaml(config))
        codes = np.random.default_rng(0).normal(size=(50, model.num_units, 1))
        np.savez(Path("runs") / system / "codes.npz", codes=codes)
        return Path("runs") / system

    return make


@pytest.fixture
def call(load_script, call_script):
    """Return a function that runs a script on a run: the lines it prints, or status and error."""

    def run(name, folder, *arguments):
        status, said, error = call_script(load_script(name), folder, *arguments, "--device", "cpu")
        return (status, error) if status else said.splitlines()

    return run


def test_samples_of_pdae_by_its_latent_dpm_with_and_without_the_last_steps(make_run, call):
    folder, pictures = make_run("pdae"), []
    for i, extra in enumerate(
        [[], ["--codes", "latent_dpm"], ["--codes", "latent_dpm", "--during", 300, 1000]]
    ):
        (path,) = call("sample", folder, "--num", 2, "--out", f"{i}.png", *extra)
        pictures.append(Path(path).read_bytes())
    assert len(set(pictures)) == 3
    assert "was trained without a prior" in call("sample", folder, "--codes", "prior")[1]
    assert "cannot be combined" in call("sample", folder, "--units", 0, "--during", 0, 500)[1]


def test_samples_of_infodiffusion_by_its_prior(make_run, call):
    folder = make_run("infodiffusion")
    assert Path(call("sample", folder, "--num", 2, "--codes", "prior")[0]).exists()
    status, error = call("sample", folder, "--codes", "prior", "--during", 0, 500)
    assert status == 2 and "no unconditional model of these latents" in error and error.count("\n") == 1


def test_samples_of_a_vae_by_its_prior(make_run, call):
    assert Path(call("sample", make_run("beta_vae"), "--num", 2, "--codes", "prior")[0]).exists()


def test_the_mean_gap_is_drawn_and_told(make_run, call):
    told, path = call("mean_gap", make_run("pdae"), "--num", 3, "--every", 200)
    assert told.startswith("t in 50..800, 3 images: the correction lowers the gap at ")
    summary = json.loads(Path(path).with_suffix(".json").read_text())
    assert summary["t"] == [0, 200, 400, 600, 800] and summary["num_steps"] == 4
    assert summary["num_images"] == 3 and len(summary["frozen"]) == len(summary["corrected"]) == 5
    assert call("mean_gap", "runs/pdae", "--every", 2000)[0] == 2


def test_the_stages_of_the_correction_have_a_row_each(make_run, call):
    (path,) = call("correction_stages", make_run("pdae"), "--num", 2)
    content = json.loads(Path(path).with_suffix(".json").read_text())
    rows = content["corrected"]
    assert list(rows) == ["never", "early", "critical", "late", "always"]
    assert rows["early"]["last"] == 999 and rows["late"]["first"] == 0
    assert rows["critical"]["last"] == rows["early"]["first"] - 1
    assert Image.open(path).height > 6 * 128
    status, error = call("correction_stages", make_run("diffae"))
    assert status == 2 and "has no frozen model to correct" in error


@pytest.mark.parametrize("system", ["pdae", "diffae"])
def test_interpolations_along_lines_and_by_trajectories(make_run, call, system):
    folder, pictures = make_run(system), []
    for i, extra in enumerate([[], ["--trajectory"]]):
        (path,) = call("edit", folder, 5, "--walk", 70_000, "--columns", 3, "--out", f"{i}.png", *extra)
        pictures.append(Path(path).read_bytes())
    assert pictures[0] != pictures[1]
