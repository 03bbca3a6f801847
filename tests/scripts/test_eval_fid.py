import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import disdiff.evaluation.row_cache
from disdiff.build import SYSTEMS, build_denoiser, build_latent_space, build_model, get_system
from disdiff.config.schema import CONFIGS, load_config, to_yaml
from disdiff.evaluation.image_features import INCEPTION, LPIPS_VGG16, InceptionFeatures
from ldm.files import digest_file, save_json
from ldm.training.weight_files import save_weights

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "eval_fid.py"
TINY = [
    *("preset=smoke", "data.procedural=always", "sampler.num_steps=2", "evaluation.num_images=100"),
    "autoencoder.network={patch: 4, channels: 4, channel_mult: [1, 2], num_groups: 2}",
    "latent_diffusion.unet={channels: 8, channel_mult: [1, 2], num_groups: 4}",
    *("code.encoder={channels: 8, hidden: 0}", "trunk.channels=8", "vae.channels=8"),
]
CONFIGURED = [name for name in SYSTEMS if (CONFIGS / name / "shapes3d.yaml").exists()]
NOT_FID = "random features (not FID)"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder for the run that all tests copy."""
    return tmp_path_factory.mktemp("shared") / "tiny"


@pytest.fixture
def run_folder(shared, noise_images, tmp_path, write_tiny_run):
    """A tiny run on procedural Shapes3D, whose images are noise, for speed."""
    if not shared.exists():
        write_tiny_run(shared)
    return Path(shutil.copytree(shared, tmp_path / "runs" / "tiny"))


@pytest.fixture
def call(run_folder, load_script, call_script, monkeypatch):
    """Return a function that runs the script on the run: result and what it said, or status and error."""
    monkeypatch.setenv("DISDIFF_WEIGHTS", str(run_folder))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(run_folder))
    script = load_script("eval_fid")

    def run(*arguments, features="random"):
        words = [run_folder, "--device", "cpu", "--features", features, *arguments]
        status, said, complained = call_script(script, *words)
        if status:
            return status, complained.strip().splitlines()[-1]
        return json.loads(Path(said.strip().splitlines()[-1]).read_text()), said

    return run


def test_samples_are_compared_and_everything_is_recorded(call, run_folder):
    result, said = call("--num", 70, "--steps", 3, "--seed", 5)
    assert (run_folder / "fid" / "samples.json").exists()
    images = result["images"]
    assert (images["kind"], images["seed"], result["num_images"]) == ("samples", 5, 70)
    assert images["sampler"] == {"name": "ddim", "num_steps": 3, "eta": 0.0, "guidance": 1.0}
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


@pytest.fixture
def write_system(run_folder):
    """Return a function that turns the run into one of an untrained tiny model of any system."""

    def write(system):
        shutil.rmtree(run_folder / "stages")
        config = load_config([CONFIGS / system / "shapes3d.yaml"], TINY)
        space = build_latent_space(config)
        denoiser = build_denoiser(config, space)
        model = build_model(config, space, denoiser, 64)
        modules = {"autoencoder": space, "latent_diffusion": denoiser, "code": model and model.networks}
        for name in get_system(config).stages:
            save_weights(run_folder / "stages" / name / "model.safetensors", modules[name])
            save_json(run_folder / "stages" / name / "stage.json", {"image_size": 64})
        (run_folder / "config.yaml").write_text(to_yaml(config))
        if model is not None:
            codes = np.random.default_rng(0).normal(size=(50, model.num_units, 1))
            np.savez(run_folder / "codes.npz", codes=codes)

    return write


def test_systems_without_a_run_of_their_own_here_are_few():
    """Guidance by CLIP needs a CLIP model, but is DisDiff with another encoder."""
    assert set(SYSTEMS) - set(CONFIGURED) <= {"disdiff_clip"}


@pytest.mark.parametrize("system", CONFIGURED)
def test_every_system_is_measured(call, write_system, system):
    write_system(system)
    if not SYSTEMS[system].has_code:
        status, error = call("--num", 4, "--allow-few")
        assert status == 2 and f"is a run of {system}, which has no code" in error
        return
    noiseless = not SYSTEMS[system].denoises
    for kind in ("samples", "inferred", "random"):
        result, said = call("--images", kind, "--num", 4, "--allow-few")
        assert (result["images"]["sampler"] is None) is noiseless
        assert ("steps" in said.splitlines()[0]) is not noiseless
        assert result["distances"][NOT_FID]["frechet_distance"]["score"] >= 0
        assert ("reconstruction" in result) is (kind != "samples")


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

    monkeypatch.setattr(disdiff.evaluation.row_cache.np, "save", stop_at_the_third)
    assert call("--num", 70) == (130, "stopped")
    monkeypatch.setattr(disdiff.evaluation.row_cache.np, "save", save)
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
        # with these tiny fields both samplers may round to the same bytes
        if "dpm_solver" not in change:
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
    assert status == 2 and "wrong.npy holds floats outside [-1, 1], up to 127.5: map 0..255 by" in error


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ">f4"])
def test_floats_in_0_to_1_are_refused_and_converted_ones_are_what_bytes_are(call, tmp_path, dtype):
    bytes_ = np.random.default_rng(0).integers(0, 256, (70, 3, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "bytes.npy", bytes_)
    np.save(tmp_path / "unit.npy", (bytes_ / 255).astype(dtype))
    status, error = call("--images", tmp_path / "unit.npy", "--num", 66)
    assert status == 2 and "look like images in [0, 1]" in error and "2 * x - 1" in error
    assert "give uint8" in error
    np.save(tmp_path / "mapped.npy", (bytes_ / 127.5 - 1).astype(dtype))
    names = ("bytes.npy", "mapped.npy") if dtype != np.float16 else ("mapped.npy",) * 2
    first, second = (call("--images", tmp_path / name, "--num", 66)[0]["distances"] for name in names)
    assert first == second


def test_one_image_below_0_is_enough_for_a_whole_file(call, tmp_path):
    images = np.full((70, 3, 64, 64), 0.5, np.float32)
    images[-1, 0, 0, 0] = -1  # not among those that are looked at
    np.save(tmp_path / "bright.npy", images)
    result, _ = call("--images", tmp_path / "bright.npy", "--num", 66)
    assert result["num_images"] == 66


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((70, 3, 64, 64), np.uint16),
        np.zeros((70, 64, 64), np.uint8),
        np.zeros((0, 3, 64, 64), np.uint8),
        np.zeros((70, 3, 64, 64), bool),
        np.where(np.arange(64) == 5, np.nan, -np.ones((70, 3, 64, 64), np.float32)),
        np.where(np.arange(64) == 5, np.inf, -np.ones((70, 3, 64, 64), np.float32)),
    ],
)
def test_files_of_something_else_are_named(call, tmp_path, images):
    np.save(tmp_path / "odd.npy", images)
    status, error = call("--images", tmp_path / "odd.npy", "--num", 66)
    assert status == 2 and error.startswith("error: ") and "odd.npy holds" in error


def test_results_of_two_files_never_share_a_name(call, run_folder, tmp_path):
    said = []
    for number, place in enumerate(("a/gen.npy", "b/gen.npy", "c/samples.npy")):
        (tmp_path / place).parent.mkdir()
        images = np.random.default_rng(number).integers(0, 256, (66, 3, 64, 64), dtype=np.uint8)
        np.save(tmp_path / place, images)
        result, output = call("--images", tmp_path / place, "--num", 66)
        said.append(Path(output.strip().splitlines()[-1]))
        assert result["images"]["sha256"][:16] in said[-1].name
    call("--num", 66)
    assert len(set(said)) == 3 and all(path.exists() for path in [*said, run_folder / "fid" / "samples.json"])
    assert said[0].name.startswith("gen-") and said[2].name.startswith("samples-")


def test_advice_names_the_option_that_takes_it(call):
    for option in ("--set weights.inception=PATH", "--set weights.allow_download=true"):
        assert option in call(features="inception")[1]
    error = call("--images", "random", "--num", 65, "--lpips")[1]
    assert "--set weights.vgg16=PATH" in error and "--set weights.allow_download=true" in error
    assert "--set weights.inception=PATH" in call("--set", "weights.inception=/x", features="inception")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--num", 64], "at least 65 images"),
        (["--num", 1, "--allow-few"], "at least 2 images"),
        (["--num", 101, "--images", "random"], "there are only 100 images (random), not 101"),
        (["--num", 101], "there are only 100 images (data), not 101"),
        (["--num", 65, "--images", "absent.npy"], "cannot read images from absent.npy"),
        (["--num", 65, "--images", "sample"], "cannot read images from sample"),
        (["--num", 65, "--steps", 5000], "cannot sample in 5000 steps"),
        (["--seed", -1], "--seed: -1 is out of range; it must be at least 0"),
        (["--set", "weights.other=1"], "--set=weights.other is unknown; choose one of weights.vgg16"),
        (["--set", "weights.allow_download=maybe"], "weights.allow_download has a value of the wrong type"),
        (["--num", 65, "--lpips"], "vgg16-397923af.pth (528 MB) is needed"),
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
    assert status == 2 and "pt_inception-2015-12-05-6726825d.pth (96 MB) is needed for FID and KID" in error
    assert not (run_folder / "fid").exists()
    status, error = call("--set", "weights.inception=/nowhere", features="inception")
    assert status == 2 and "weights.inception=/nowhere is not a file" in error


def test_the_run_s_own_weights_are_read_and_set_overrides_them(call, run_folder):
    path = run_folder / "config.yaml"
    path.write_text(path.read_text().replace("  inception: null", "  inception: /of/the/run"))
    status, error = call(features="inception")
    assert status == 2 and "weights.inception=/of/the/run is not a file" in error
    status, error = call("--set", "weights.inception=/other", features="inception")
    assert status == 2 and "weights.inception=/other is not a file" in error


def test_absent_lpips_weights_say_what_where_from_and_what_still_works(call):
    status, error = call("--images", "random", "--num", 65, "--lpips")
    assert status == 2
    for part in (
        "needed for LPIPS",
        "https://download.pytorch.org",
        "528 MB",
        "397923af",
        "leave out --lpips",
    ):
        assert part in error


def test_lpips_with_random_weights_says_so(call, run_folder, monkeypatch):
    """The path through LPIPS, with a VGG16 whose weights are random: its numbers are no LPIPS."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    weights = {f"features.{name}": value for name, value in vgg16().features.state_dict().items()}
    torch.save(weights, run_folder / LPIPS_VGG16.file_name)
    status, error = call("--images", "random", "--num", 65, "--lpips")
    assert status == 2 and "is not torchvision's VGG16 (sha256" in error
    digest = digest_file(run_folder / LPIPS_VGG16.file_name)
    named = replace(LPIPS_VGG16, sha256=digest, name="random VGG16 (not LPIPS)")
    monkeypatch.setattr("disdiff.evaluation.image_features.LPIPS_VGG16", named)
    result, said = call("--images", "random", "--num", 4, "--allow-few", "--lpips")
    assert result["reconstruction"]["lpips"] > 0 and "  lpips " in said
    network = result["reconstruction"]["lpips_network"]
    assert network == {"network": "random VGG16 (not LPIPS)", "weights_sha256": digest}


def test_features_of_inception_give_fid_and_kid_by_name(call, run_folder, monkeypatch):
    class Stub(InceptionFeatures):
        dims = 4

        def __init__(self, path, mode, device):
            self.identity = {"name": self.name, "weights": path.name, "resize": mode}

        def __call__(self, images):
            return images[:, :2].float().flatten(2).std(dim=2).repeat(1, 2) ** torch.tensor([1, 2, 2, 1])

    monkeypatch.setattr("disdiff.evaluation.image_features.InceptionFeatures", Stub)
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
    assert stop.value.code == 0 and "disdiff fid pretrained/shapes3d" in capsys.readouterr().out
