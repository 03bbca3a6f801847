import importlib.util
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import disdiff.row_cache
from disdiff.build import build_denoiser, build_disdiff, build_latent_space
from disdiff.config import Config, to_yaml
from disdiff.factor_encoder import FactorEncoderConfig
from disdiff.image_features import INCEPTION, InceptionFeatures
from disdiff.stages import save_weights
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.procedural import ProceduralShapes3D
from ldm.diffusion.sampler import SamplerConfig
from ldm.files import save_json

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "eval_fid.py"
NOT_FID = "random features (not FID)"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder for the run that all tests copy."""
    return tmp_path_factory.mktemp("shared") / "tiny"


@pytest.fixture(scope="module")
def noise():
    return torch.rand(480, 4, 64, 64, generator=torch.Generator().manual_seed(0)) / 4


@pytest.fixture
def run_folder(shared, noise, tmp_path, tiny_unet, randomise, monkeypatch):
    """A run of an untrained tiny model on procedural Shapes3D, whose images are noise, for speed."""
    monkeypatch.setattr(ProceduralShapes3D, "maps", noise)
    if not shared.exists():
        write_run(shared, tiny_unet, randomise)
    return Path(shutil.copytree(shared, tmp_path / "runs" / "tiny"))


def write_run(folder, tiny_unet, randomise):
    config = Config()
    config.data.procedural = "always"
    config.autoencoder.network = NetworkConfig(
        channels=4, channel_mult=[1, 2, 2, 2], num_res_blocks=1, z_channels=4, attention=False, num_groups=2
    )
    config.latent_diffusion.unet = tiny_unet
    config.factors.num_units, config.factors.unit_dim = 3, 2
    config.factors.encoder = FactorEncoderConfig(input="z", channels=8, norm="group")
    config.sampler, config.evaluation.num_images = SamplerConfig("ddim", 2, 0.0), 100
    space = build_latent_space(config)
    denoiser = build_denoiser(config, space)
    model = build_disdiff(config, space, denoiser, 64)
    randomise(model.factors.decoder)
    parts = {"autoencoder": space, "latent_diffusion": denoiser, "factors": model.factors}
    for name, module in parts.items():
        save_weights(folder / "stages" / name / "model.safetensors", module)
        save_json(folder / "stages" / name / "stage.json", {"image_size": 64})
    (folder / "config.yaml").write_text(to_yaml(config))
    np.savez(folder / "codes.npz", codes=np.random.default_rng(0).normal(size=(50, 3, 2)))


@pytest.fixture
def call(run_folder, capsys, monkeypatch):
    """Return a function that runs the script on the run: result and what it said, or status and error."""
    monkeypatch.setenv("DISDIFF_WEIGHTS", str(run_folder))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(run_folder))
    spec = importlib.util.spec_from_file_location("eval_fid", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*arguments, features="random"):
        words = [str(run_folder), "--device", "cpu", "--features", features, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["eval_fid", *words])
        try:
            script.run_script(script.main, script.make_parser())
        except SystemExit as error:
            return error.code, capsys.readouterr().err.strip().splitlines()[-1]
        said = capsys.readouterr().out
        return json.loads(Path(said.strip().splitlines()[-1]).read_text()), said

    return run


def test_samples_are_compared_and_everything_is_recorded(call, run_folder):
    result, said = call("--num", 70, "--steps", 3, "--seed", 5)
    assert (run_folder / "fid" / "samples.json").exists()
    images = result["images"]
    assert (images["kind"], images["seed"], result["num_images"]) == ("samples", 5, 70)
    assert images["sampler"] == {"name": "ddim", "num_steps": 3, "eta": 0.0}
    assert result["dataset"] == {"name": "shapes3d", "procedural": True}
    assert result["reference"]["split"] == "eval"
    distances = result["distances"][NOT_FID]
    assert distances["frechet_distance"]["sizes"] == {"images": 70, "reference": 70, "dimensions": 64}
    assert distances["kernel_distance"]["settings"]["subset_size"] == 70
    assert "ddim in 3 steps" in said and f"{NOT_FID}: frechet_distance" in said


def test_random_features_are_never_called_fid(call):
    result, said = call("--num", 65)
    assert list(result["distances"]) == [NOT_FID]
    assert set(result["distances"][NOT_FID]) == {"frechet_distance", "kernel_distance"}
    lines = [line for line in said.splitlines()[:-1] if "fid" in line.lower()]
    assert lines and all(NOT_FID in line for line in lines)


@pytest.mark.parametrize("kind", ["inferred", "random"])
def test_reconstructions_are_also_compared_pair_by_pair(call, kind):
    result, said = call("--images", kind, "--num", 65)
    quality = result["reconstruction"]
    assert quality["sizes"] == {"images": 65} and 0 < quality["mse"] < 1 and quality["ssim"] < 1
    assert "psnr" in said and "lpips" not in quality
    assert result["images"]["source"]["split"] == "eval"


def test_an_interrupted_command_continues_to_the_same_numbers(call, run_folder, monkeypatch):
    whole, _ = call("--num", 70, "--cache", run_folder / "whole")
    save, written = np.save, []

    def stop_at_the_third(*arguments):
        written.append(arguments[0])
        if len(written) == 3:
            raise KeyboardInterrupt
        save(*arguments)

    monkeypatch.setattr(disdiff.row_cache.np, "save", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        call("--num", 70)
    monkeypatch.setattr(disdiff.row_cache.np, "save", save)
    kept = {path: path.stat().st_mtime_ns for path in (run_folder / "fid").rglob("*.npy")}
    assert len(kept) == 2  # the first images and their features
    assert call("--num", 70)[0] == whole
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_the_cache_follows_what_the_images_depend_on(call, run_folder):
    def places():
        return {path.name for path in (run_folder / "fid").iterdir() if path.is_dir()}

    first, _ = call("--num", 10, "--allow-few")
    seen = places()
    for change, changed in (
        ([], 0),
        (["--seed", 1], 2),
        (["--steps", 3], 2),
        (["--sampler", "dpm_solver"], 2),
        (["--reference", "train"], 1),
    ):
        result, _ = call("--num", 10, "--allow-few", *change)
        assert len(places() - seen) == changed, change
        assert (result["distances"] == first["distances"]) is not bool(changed)
        seen = places()
    np.savez(run_folder / "codes.npz", codes=np.random.default_rng(1).normal(size=(50, 3, 2)))
    call("--num", 10, "--allow-few")
    assert len(places() - seen) == 2


def test_images_of_a_file_in_either_layout_and_range(call, tmp_path):
    bytes_ = np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3), dtype=np.uint8)
    floats = np.moveaxis(bytes_, 3, 1).astype(np.float32) / 127.5 - 1
    np.save(tmp_path / "bytes.npy", bytes_)
    np.save(tmp_path / "floats.npy", floats)
    first, second = (
        call("--images", tmp_path / name, "--num", 66)[0] for name in ("bytes.npy", "floats.npy")
    )
    assert first["distances"] == second["distances"]
    np.save(tmp_path / "wrong.npy", floats * 127.5)
    status, error = call("--images", tmp_path / "wrong.npy", "--num", 66)
    assert status == 2 and "wrong.npy holds floats outside [-1, 1]: map 0..255 by x / 127.5 - 1" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--num", 64], "at least 65 images"),
        (["--num", 1, "--allow-few"], "2 images at the very least"),
        (["--num", 101, "--images", "random"], "there are 100 images (random) but 101 are asked for"),
        (["--num", 101], "there are 100 images (data) but 101 are asked for"),
        (["--num", 65, "--images", "absent.npy"], "cannot read images from absent.npy"),
        (["--num", 65, "--images", "sample"], "cannot read images from sample"),
        (["--num", 65, "--steps", 5000], "cannot sample in 5000 steps"),
        (["--seed", -1], "--seed -1 is none of 0 to"),
        (["--set", "weights.other=1"], "--set=weights.other is unknown; choose one of weights.inception"),
        (["--num", 65, "--lpips"], "vgg16-397923af.pth is needed"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(call, arguments, says):
    status, error = call(*arguments)
    assert status == 2 and error.startswith("error: ") and says in error


def test_few_images_are_accepted_when_asked_for_and_marked(call):
    result, _ = call("--num", 10, "--allow-few")
    assert result["distances"][NOT_FID]["frechet_distance"]["full_rank"] is False


def test_absent_inception_weights_are_explained_before_anything_slow(call, run_folder):
    status, error = call(features="inception")
    assert status == 2 and "pt_inception-2015-12-05-6726825d.pth is needed for FID and KID" in error
    assert not (run_folder / "fid").exists()
    status, error = call("--set", "weights.inception=/nowhere", features="inception")
    assert status == 2 and "weights.inception=/nowhere is not a file" in error


def test_features_of_inception_give_fid_and_kid_by_name(call, run_folder, monkeypatch):
    class Stub(InceptionFeatures):
        dims = 4

        def __init__(self, path, mode, device):
            self.identity = {"name": self.name, "weights": path.name, "resize": mode}

        def __call__(self, images):
            return images[:, :2].float().flatten(2).std(dim=2).repeat(1, 2) ** torch.tensor([1, 2, 2, 1])

    monkeypatch.setattr("disdiff.image_features.InceptionFeatures", Stub)
    (run_folder / INCEPTION.file_name).write_bytes(b"")
    result, said = call("--num", 10, "--resize", "tensorflow1", features="inception")
    assert set(result["distances"]) == {"fid", "kid"} and "random" not in said
    assert result["features"] == {
        "name": "inception",
        "weights": INCEPTION.file_name,
        "resize": "tensorflow1",
    }
    assert "inception, resize: tensorflow1" in said and "  fid " in said


def test_the_script_explains_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eval_fid", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (
        stop.value.code == 0 and "python scripts/eval_fid.py pretrained/shapes3d" in capsys.readouterr().out
    )
