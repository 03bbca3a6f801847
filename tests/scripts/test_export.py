"""scripts/export.py: a folder that needs nothing outside itself, says what it is, and gives the run back."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

import disdiff
from disdiff.build import build_denoiser, build_latent_space, build_model
from disdiff.clip.tower import load_clip
from disdiff.config.clip_options import ClipConfig
from disdiff.config.schema import load_config, merge, to_yaml
from disdiff.interop.exporting import export_run
from disdiff.runs.run_folder import load_run
from ldm.errors import UserError
from ldm.files import load_json, save_json
from ldm.training.weight_files import save_weights

ROOT = Path(__file__).resolve().parents[2]
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
STAGES = ("autoencoder", "latent_diffusion", "code")
FILES = {"README.md", "config.yaml", "metrics.json", "codes.npz", "traversal.png"} | {
    f"stages/{name}/{file}" for name in STAGES for file in ("model.safetensors", "stage.json")
}


@pytest.fixture
def folder(tmp_path, write_tiny_run):
    """A tiny run of preset smoke on procedural data at a place of this machine, with scores of `fast`."""
    folder = write_tiny_run(tmp_path / "home" / "me" / "tiny")
    config = OmegaConf.load(folder / "config.yaml")
    config.preset, config.data.root = "smoke", str(tmp_path / "home" / "me" / "3d")
    config.run.root, config.weights.vgg16 = str(tmp_path / "home" / "me"), str(tmp_path / "home" / "vgg.pth")
    config.trainer.threads, config.run.name = 3, "tiny"
    OmegaConf.save(config, folder / "config.yaml")
    for name in STAGES:
        record = {"stage": name, "hash": f"{name}-hash", "seconds": 720.0, "steps": 7, "images": 112}
        save_json(folder / "stages" / name / "stage.json", {**record, "image_size": 64})
        (folder / "stages" / name / "log.csv").write_text("step\n")
    rng = np.random.default_rng(0)
    codes = {"codes": rng.normal(size=(50, 3, 2)).astype(np.float32), "factors": rng.integers(0, 2, (50, 2))}
    np.savez(folder / "codes.npz", **codes, factor_names=np.array(["wall hue", "scale"]))
    importance = [[0.6, 0.0], [0.0, 0.4], [0.0, 0.0]]
    skipped = ["holiday/bob.jpg", "holiday/eve.jpg"]
    save_json(
        folder / "metrics.json",
        {
            "system": "disdiff",
            "dataset": {"name": "shapes3d", "procedural": True, "num_images": 480_000, "skipped": skipped},
            "scores": {
                "fast": {
                    "dci": {"disentanglement": 0.25, "importance": importance, "sizes": {"train": 40}},
                    "factor_vae": {"eval_accuracy": 0.5},
                }
            },
            "editing": {"success": {}, "kept_min": 0.125},
            "reconstruction": {"inferred_psnr": 17.25},
            "stages": {name: {"hash": f"{name}-hash"} for name in STAGES},
            "versions": {"torch": "2.0"},
        },
    )
    (folder / "traversal.png").write_bytes(b"a picture")
    (folder / "report.html").write_text("stays behind")
    return folder


@pytest.fixture
def call(load_script, call_script):
    """Return a function that calls the script: status, what it said, what it complained of."""
    return lambda *arguments: call_script(load_script("export"), *arguments)


def list_files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def decode(model, codes):
    return model.decode(codes, model.infer_noise(IMAGES, codes))


def test_it_gives_the_run_back_bit_for_bit_from_anywhere(call, folder, tmp_path, monkeypatch):
    before = disdiff.load(folder, "cpu")
    codes, directions, names = before.encode(IMAGES), before.directions, before.unit_names
    images, target = decode(before, codes), tmp_path / "out" / "mine"
    status, said, errors = call(folder, target)
    assert status == 0 and not errors and said.splitlines()[-1] == str(target)
    assert list_files(target) == FILES and all(name in said for name in FILES)
    assert [path.name for path in target.parent.iterdir()] == ["mine"]
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "elsewhere").mkdir()
    moved = target.rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir("/")
    after = disdiff.load(moved, "cpu")
    assert torch.equal(after.encode(IMAGES), codes) and torch.equal(decode(after, codes), images)
    assert torch.equal(after.directions.axis, directions.axis)
    assert after.find_units("wall hue") == [0] and after.unit_names == names
    again = export_run(moved, moved.parent / "again")
    assert torch.equal(disdiff.load(again, "cpu").encode(IMAGES), codes)
    for name in FILES - {"README.md"}:
        assert (again / name).read_bytes() == (moved / name).read_bytes()


def test_nothing_of_this_machine_or_of_the_users_files_goes_along(folder, tmp_path):
    config = OmegaConf.load(folder / "config.yaml")
    config.data.factors = str(tmp_path / "home" / "bob" / "labels.csv")
    OmegaConf.save(config, folder / "config.yaml")
    target = export_run(folder, tmp_path / "out")
    for path in target.rglob("*"):
        if path.suffix in (".json", ".yaml", ".md"):
            text = path.read_text()
            assert str(tmp_path) not in text and "vgg.pth" not in text and "bob" not in text
    old, new = (merge([OmegaConf.load(place / "config.yaml")]) for place in (folder, target))
    assert new.data.root == "data/shapes3d" and new.run.root == "runs" and new.trainer.threads is None
    same = {"run": old.run, "data": replace(old.data, root=new.data.root, factors=None)}
    assert replace(new, **same) == replace(old, **same, weights=new.weights, trainer=new.trainer)
    metrics, noted = load_json(folder / "metrics.json"), load_json(target / "metrics.json")
    assert noted.pop("dataset") == {**metrics.pop("dataset"), "skipped": "2 pictures"} and noted == metrics


def test_the_card_says_what_it_is_and_what_not_to_believe(folder, tmp_path):
    text = (export_run(folder, tmp_path / "mine", "cc-by-4.0") / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("---\n")
    header = OmegaConf.to_container(OmegaConf.create(head))
    assert header["license"] == "cc-by-4.0" and {"disdiff", "procedural-shapes3d"} <= set(header["tags"])
    assert ModelCard(text).data.to_dict() == header and header["library_name"] == "disdiff"
    assert "# disdiff on shapes3d (procedural)" in body and "![Traversals" in body
    assert "64x64x3 a code of 3 units of 2 numbers" in body and 'disdiff.load("mine")' in body
    assert "480,000 images" in body and "Left out: 2 pictures" in body
    assert "Protocol `fast`" in body and "| DCI disentanglement | 0.250 | 40 train |" in body
    assert "Unit 0 encodes wall hue (importance 0.60)" in body and "17.2 dB" in body
    assert "| code | code-hash | 7 | 112 | 12 min |" in body and "versions: torch 2.0" in body
    caveats = body.partition("## Caveats")[2]
    for caveat in (
        "are procedural",
        "A tiny model",
        "scores are meaningless",
        "only comparable within",
        "keeps 12%",
    ):
        assert caveat in caveats


def test_a_run_without_scores_says_so(folder, tmp_path):
    for name in ("metrics.json", "codes.npz"):
        (folder / name).unlink()
    text = (export_run(folder, tmp_path / "out") / "README.md").read_text()
    assert "None: this model was not evaluated." in text and "license" not in text
    assert "(procedural)" in text and "are procedural" in text  # by the data that the run opens
    assert "## Units" not in text and "Scores are from one run" not in text


@pytest.mark.parametrize("name", ["a | b", "<script>", "{{ 7 * 7 }}"])
def test_names_stay_as_they_are_in_the_card(folder, tmp_path, name):
    np.savez(folder / "codes.npz", **{**np.load(folder / "codes.npz"), "factor_names": np.array([name, "x"])})
    metrics = load_json(folder / "metrics.json")
    edits = {"success": {name: 0.5}, "assigned_unit": {name: 0}, "kept": {name: {name: 0.25}}}
    metrics["editing"] = {"probe": "originals", **edits}
    save_json(folder / "metrics.json", metrics)
    text = (export_run(folder, tmp_path / "out") / "README.md").read_text()
    cell = name.replace("|", "\\|")
    assert f"| {cell} | unit 0 | 0.500 | not measured | 0.25 ({cell}) |  | not measured |  |" in text
    assert f"- Unit 0 encodes {name} (importance 0.60)." in text


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def spoil_codes(folder):
    np.savez(folder / "codes.npz", codes=np.array([Evil()], dtype=object))


def spoil_weights(folder):
    path = folder / "stages" / "code" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def retrain(folder):
    save_json(folder / "stages" / "code" / "stage.json", {"hash": "another", "image_size": 64})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_codes, "codes.npz is damaged"),
        (spoil_weights, "cannot read the weights"),
        (retrain, "metrics.json belongs to other weights of stage code"),
        (lambda folder: (folder / "metrics.json").write_text("{"), "metrics.json is not valid JSON"),
        (lambda folder: (folder / "config.yaml").unlink(), "is not a run folder"),
        (lambda folder: shutil.rmtree(folder / "stages" / "code"), "cannot read .*stage.json"),
    ],
)
def test_a_run_that_is_not_whole_leaves_nothing(folder, tmp_path, monkeypatch, spoil, says):
    monkeypatch.chdir(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=says):
        export_run(folder, "out")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_what_is_there_is_never_replaced(call, folder, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    for target in (taken, taken / "mine.txt", folder):
        status, _, errors = call(folder, target)
        assert status == 2 and "is not empty; choose another folder" in errors and errors.count("\n") == 1
    assert list_files(taken) == {"mine.txt"} and not list(tmp_path.glob(".*"))
    (tmp_path / "empty").mkdir()
    assert call(folder, tmp_path / "empty")[0] == 0 and list_files(tmp_path / "empty") == FILES
    status, _, errors = call(folder, tmp_path / "new", "--license", "do what\nyou like")
    assert status == 2 and "is not a licence" in errors and not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing(folder, tmp_path, no_file_larger_than):
    with pytest.raises(UserError, match="cannot write .*free some space"), no_file_larger_than(5_000):
        export_run(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_guided_run_brings_its_clip_along(tmp_path, randomise, monkeypatch):
    """Weights and prompts that lie on this machine are part of the export."""
    home = tmp_path / "home"
    home.mkdir()
    clip = load_clip(ClipConfig(model="tiny_clip", pretrained="random"))
    safetensors.torch.save_file(clip.net.state_dict(), home / "clip.safetensors")
    shutil.copyfile(ROOT / "prompts" / "shapes3d.yaml", home / "words.yaml")
    tiny = ["latent_diffusion.unet.channels=8", "latent_diffusion.unet.num_groups=4", "sampler.num_steps=2"]
    tiny += ["latent_diffusion.unet.num_heads=1", "autoencoder.network.channels=8", "clip.model=tiny_clip"]
    tiny += ["autoencoder.network.num_groups=4", f"clip.pretrained={home / 'clip.safetensors'}"]
    tiny += [f"clip.prompts={home / 'words.yaml'}", "code.encoder.start=text", "code.num_units=8"]
    path = ROOT / "configs" / "disdiff" / "shapes3d_clip.yaml"
    config = load_config([path], ["preset=smoke", "clip.mean=[0,0,0]", "clip.std=[1,1,1]", *tiny])
    space = build_latent_space(config)
    denoiser = build_denoiser(config, space)
    model = build_model(config, space, denoiser, 64)
    randomise(model.networks)
    for name, module in zip(STAGES, (space, denoiser, model.networks), strict=True):
        save_weights(home / "run" / "stages" / name / "model.safetensors", module)
        save_json(home / "run" / "stages" / name / "stage.json", {"image_size": 64})
    (home / "run" / "config.yaml").write_text(to_yaml(config))
    codes = load_run(home / "run").model.encode(IMAGES)
    target = export_run(home / "run", tmp_path / "out")
    shutil.rmtree(home)
    monkeypatch.chdir("/")
    assert list_files(target) >= {"clip/clip.safetensors", "clip/words.yaml"}
    assert str(tmp_path) not in (target / "config.yaml").read_text()
    assert torch.equal(load_run(target).model.encode(IMAGES), codes)
    assert "Supervision: " in (target / "README.md").read_text()
