"""Commands on runs: new codes, the mean gap, stages of the correction, composed units, interpolations."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disdiff.build import build_latent_dpm
from disdiff.config.schema import to_yaml
from ldm.files import save_json
from ldm.training.weight_files import save_weights

FACTORS = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")
SHORT = ("sampler.num_steps=2", "evaluation.num_images=100", "data.num_train=64",
         "evaluation.probe_steps=10")  # fmt: skip


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


def test_a_probe_reads_the_factors_from_samples_of_each_stage(make_run, call):
    (*_, path) = call("correction_stages", make_run("pdae"), "--num", 12, "--probe")
    read = json.loads(Path(path).with_suffix(".json").read_text())["factors_read"]
    assert list(read) == ["never", "early", "critical", "late", "always", "chance"]
    assert set(read["late"]) == {*FACTORS, "mean"} and all(0 <= rate <= 1 for rate in read["late"].values())
    assert read["chance"]["shape"] >= 0.25 and Image.open(path).width < 9.5 * 132 + 250  # 8 of 12 images
    assert "leave out --images" in call("correction_stages", "runs/pdae", "--probe", "--images", 3)[1]


def test_new_codes_have_a_distance_and_a_row_each(make_run, call):
    said = call("new_codes", make_run("infodiffusion"), "--num", 20)
    assert [line.partition(":")[0] for line in said[:-1]] == [
        *("codes of the data", "normal codes", "codes of the latent DPM", "halves of the data")
    ]
    content = json.loads(Path(said[-1]).with_suffix(".json").read_text())
    assert content["distance"]["halves of the data"] < min(
        content["distance"][way] for way in ("data", "normal", "latent_dpm")
    )
    status, error = call("new_codes", "runs/infodiffusion", "--num", 60)
    assert status == 2 and "at most 50, half of the run's evaluation images" in error


def test_units_are_composed_and_told(make_run, call):
    folder = make_run("disdiff")
    importance = np.zeros((6, 6))
    importance[[0, 0, 1, 1, 2, 2], range(6)] = 1
    scores = {"fast": {"dci": {"importance": importance.tolist()}}}
    save_json(folder / "metrics.json", {"system": "disdiff", "dataset": {}, "scores": scores})
    *said, path = call("compose", folder, "--num", 3)
    assert [line.split(":")[0] for line in said] == ["changed", "kept", "residual"]
    content = json.loads(Path(path).with_suffix(".json").read_text())
    assert content["assigned_unit"]["shape"] == 2 and content["residual"]["pair"] > 0
    assert "no DCI scores" in call("compose", make_run("pdae"))[1]


def test_curves_are_drawn_and_summarised(load_script, call_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    call = partial(call_script, load_script("curves"), "run")
    assert "has no log.csv with a loss" in call()[2]
    Path("run/log.csv").write_text(
        "step,loss,grad_norm\n" + "\n".join(f"{10 * i},{1 / i},{1 + 8 * (i == 5)}" for i in range(1, 11))
    )
    *said, path = call()[1].splitlines()
    summary = json.loads(Path(path).with_suffix(".json").read_text())
    assert summary["grad_norm"]["spike"] == 9 and "of_frozen" not in summary
    assert summary["loss"]["last"] == pytest.approx((1 / 8 + 1 / 9 + 1 / 10) / 3) and len(said) == 2


@pytest.mark.parametrize("system", ["pdae", "diffae"])
def test_interpolations_along_lines_and_by_trajectories(make_run, call, system):
    folder, pictures = make_run(system), []
    for i, extra in enumerate([[], ["--trajectory"]]):
        (path,) = call("edit", folder, 5, "--walk", 70_000, "--columns", 3, "--out", f"{i}.png", *extra)
        pictures.append(Path(path).read_bytes())
    assert pictures[0] != pictures[1]
