import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from disdiff.config.places import PRETRAINED
from disdiff.config.schema import CONFIGS, load_config, read_yaml
from disdiff.config.trees import first_difference
from disdiff.runs.stages import RECORD, Stage, copy_stage, drop_added, list_stages
from ldm.errors import UserError
from ldm.files import load_json, save_json
from ldm.training.weight_files import WEIGHTS, load_weights, save_weights

SHAPES3D = CONFIGS / "disdiff" / "shapes3d.yaml"
NAMES = ["autoencoder", "latent_diffusion", "code"]


def hashes(tmp_path, *overrides, identity="images-1", file=SHAPES3D):
    config = load_config(
        [file], ["preset=smoke", f"run.root={tmp_path}", "stages.pretrained=false", *overrides]
    )
    return [stage.hash for stage in list_stages(config, SimpleNamespace(identity=identity), tmp_path / "run")]


@pytest.fixture
def stage(tmp_path):
    """A trained stage."""
    stage = Stage("autoencoder", "0123456789ab", tmp_path / "_stages" / "autoencoder-0123456789ab")
    stage.folder.mkdir(parents=True)
    (stage.folder / "resume.ckpt").write_text("no longer needed")
    (stage.folder / "log.csv").write_text("step,loss\n")
    stage.save(nn.Linear(2, 3), {"seconds": 1.5})
    return stage


@pytest.mark.parametrize(
    ("override", "first_changed"),
    [
        ("autoencoder.network.channels=24", 0),
        ("autoencoder.loss.pixel=l2", 0),
        ("autoencoder.train.images=3200", 0),
        ("autoencoder.train.learning_rate=1e-4", 0),
        ("autoencoder.standardise=scalar", 0),
        ("autoencoder.noise_share=0.05", 0),
        ("data.num_train=1000", 0),
        ("stage_seed=1", 0),
        ("latent_diffusion.schedule.beta_end=0.02", 1),
        ("latent_diffusion.unet.channels=24", 1),
        ("latent_diffusion.train.ema_decay=0.9", 1),
        ("code.num_units=5", 2),
        ("code.loss.weight_disentangle=0.1", 2),
        ("code.loss.auxiliary.weight=0.5", 2),
        ("code.encoder.channels=24", 2),
        ("code.decoder.unit_embedding=learned", 2),
        ("seed=1", 2),
    ],
)
def test_a_hash_changes_with_all_that_its_weights_depend_on(tmp_path, override, first_changed):
    before, after = hashes(tmp_path), hashes(tmp_path, override)
    assert [a != b for a, b in zip(before, after, strict=True)] == [k >= first_changed for k in range(3)]


@pytest.mark.parametrize(
    "override",
    [
        "run.name=other",
        "trainer.threads=1",
        "trainer.device=cpu",
        "data.num_workers=2",
        "data.root=elsewhere",
        "evaluation.protocol=paper",
        "evaluation.num_images=5000",
        "sampler.num_steps=7",
        "weights.allow_download=true",
        "code.train.checkpoint_seconds=1",
        "code.train.preview_steps=7",
        "autoencoder.train.checkpoint_seconds=1",
    ],
)
def test_a_hash_does_not_change_with_anything_else(tmp_path, override):
    assert hashes(tmp_path, override) == hashes(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_stages_keep_their_hashes(name):
    """A key that is younger than they are does not count where it stands at its default."""
    shipped = read_yaml(PRETRAINED / "shapes3d" / "config.yaml")
    longer = f"code.train.images={shipped.code.train.images}"
    config = load_config([SHAPES3D], ["preset=small", f"seed={shipped.seed}", longer])
    source = SimpleNamespace(identity="shapes3d-procedural-1")
    stages = {stage.name: stage for stage in list_stages(config, source, PRETRAINED / "shapes3d")}
    folder = PRETRAINED / "shapes3d" / "stages" / name
    assert stages[name].hash == load_json(folder / RECORD)["hash"] and stages[name].folder == folder


def test_a_younger_key_counts_off_its_default(tmp_path):
    assert hashes(tmp_path, "autoencoder.noise_share=0.1") == hashes(tmp_path)
    assert not set(hashes(tmp_path, "autoencoder.noise_share=0.2")) & set(hashes(tmp_path))


def test_younger_keys_are_left_out_at_any_depth(monkeypatch):
    monkeypatch.setattr("disdiff.runs.stages.ADDED_KEYS", {"stage.train.pace", "stage.list"})
    defaults = {"old": 1, "list": [1], "train": {"pace": 2, "images": 3}}
    assert drop_added(defaults, defaults, "stage.") == {"old": 1, "train": {"images": 3}}
    changed = {"old": 1, "list": [1, 2], "train": {"pace": 4, "images": 3}}
    assert drop_added(changed, defaults, "stage.") == changed


def test_a_hash_is_of_the_configuration_not_of_how_it_was_given(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("bases: [shapes3d]\nsystem: disdiff\ncode: {num_units: 5}\n")
    assert hashes(tmp_path, file=file) == hashes(tmp_path, "code.num_units=5")


def test_other_data_are_other_stages(tmp_path):
    assert not set(hashes(tmp_path)) & set(hashes(tmp_path, identity="images-2"))


def test_systems_share_their_first_stages(tmp_path):
    full = hashes(tmp_path)
    assert hashes(tmp_path, file=CONFIGS / "latent_diffusion" / "shapes3d.yaml") == full[:2]
    assert hashes(tmp_path, file=CONFIGS / "autoencoder" / "shapes3d.yaml") == full[:1]


def test_shared_stages_lie_under_the_root_and_the_last_in_the_run_folder(tmp_path):
    config = load_config([SHAPES3D], [f"run.root={tmp_path}", "stages.pretrained=false"])
    stages = list_stages(config, SimpleNamespace(identity="images-1"), tmp_path / "run")
    assert [stage.name for stage in stages] == NAMES
    assert [stage.folder for stage in stages] == [
        tmp_path / "_stages" / f"autoencoder-{stages[0].hash}",
        tmp_path / "_stages" / f"latent_diffusion-{stages[1].hash}",
        tmp_path / "run" / "stages" / "code",
    ]
    assert not any(stage.trained for stage in stages)


def test_a_shipped_stage_of_the_same_hash_is_used_if_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr("disdiff.runs.stages.PRETRAINED", tmp_path / "pretrained")
    shipped = tmp_path / "pretrained" / "shapes3d" / "stages" / "autoencoder"
    save_json(shipped / RECORD, {"hash": hashes(tmp_path)[0]})

    def folder(*overrides):
        config = load_config([SHAPES3D], ["preset=smoke", f"run.root={tmp_path}", *overrides])
        return list_stages(config, SimpleNamespace(identity="images-1"), tmp_path / "run")[0].folder

    assert folder() == shipped
    assert folder("stages.pretrained=false") != shipped
    assert folder("stage_seed=1") != shipped


def test_a_saved_stage_is_trained_and_loads(stage):
    assert stage.trained and not (stage.folder / "resume.ckpt").exists()
    assert stage.record == {"stage": "autoencoder", "hash": "0123456789ab", "seconds": 1.5}
    one, two = nn.Linear(2, 3), nn.Linear(2, 3)
    stage.load(one)
    stage.load(two)
    assert torch.equal(one.weight, two.weight)


def test_the_record_is_written_last(tmp_path, monkeypatch):
    stage = Stage("code", "0" * 12, tmp_path)
    monkeypatch.setattr(
        "disdiff.runs.stages.save_weights", lambda path, module: path.write_text(str(stage.trained))
    )
    stage.save(nn.Linear(1, 1), {})
    assert (tmp_path / WEIGHTS).read_text() == "False" and stage.trained


def test_copying_a_stage_takes_weights_record_and_log(stage, tmp_path):
    target = tmp_path / "run" / "stages" / "autoencoder"
    for _ in range(2):
        copy_stage(stage, target)
        assert {path.name for path in target.iterdir()} == {WEIGHTS, RECORD, "log.csv"}
        assert all(
            (target / name).read_bytes() == (stage.folder / name).read_bytes() for name in (WEIGHTS, RECORD)
        )
    assert os.path.samefile(target / WEIGHTS, stage.folder / WEIGHTS)
    copy_stage(replace(stage, folder=target), target)  # the last stage is trained where it stays
    assert (target / WEIGHTS).exists()


def test_copying_across_file_systems(stage, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copy_stage(stage, tmp_path / "run")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (stage.folder / WEIGHTS).read_bytes()
    assert not os.path.samefile(tmp_path / "run" / WEIGHTS, stage.folder / WEIGHTS)


def test_a_stage_trained_anew_replaces_its_copy_and_spares_those_of_other_runs(stage, tmp_path):
    copy_stage(stage, tmp_path / "run")
    before = (tmp_path / "run" / WEIGHTS).read_bytes()
    stage.save(nn.Linear(2, 3), {"seconds": 2.0})
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == before
    copy_stage(stage, tmp_path / "run")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() != before
    assert load_json(tmp_path / "run" / RECORD)["seconds"] == 2.0


@pytest.mark.parametrize("damage", ["missing", "truncated", "rubbish", "empty"])
def test_unreadable_weights_are_named(tmp_path, damage):
    path = tmp_path / WEIGHTS
    save_weights(path, nn.Linear(30, 30))
    content = {"truncated": path.read_bytes()[:-100], "rubbish": b"\xff" * 500, "empty": b""}
    path.unlink() if damage == "missing" else path.write_bytes(content[damage])
    with pytest.raises(UserError, match="cannot read the weights .*model.safetensors"):
        load_weights(path, nn.Linear(30, 30))


def test_weights_that_are_no_numbers_are_named(tmp_path):
    broken = nn.Linear(3, 2)
    broken.bias.data[1] = float("nan")
    save_weights(tmp_path / WEIGHTS, broken)
    with pytest.raises(UserError, match="model.safetensors: bias has NaN or infinity"):
        load_weights(tmp_path / WEIGHTS, nn.Linear(3, 2))


@pytest.mark.parametrize(
    "module", [nn.Linear(2, 4), nn.Linear(2, 3, bias=False), nn.Sequential(nn.Linear(2, 3))]
)
def test_weights_of_another_configuration_are_named(stage, module):
    with pytest.raises(UserError, match="weights of another configuration .*(weight|bias)"):
        stage.load(module)


def test_a_disk_that_fills_leaves_the_old_weights(stage, no_file_larger_than):
    good = (stage.folder / WEIGHTS).read_bytes()
    with no_file_larger_than(1000), pytest.raises(UserError, match="cannot write .*model.safetensors"):
        save_weights(stage.folder / WEIGHTS, nn.Linear(300, 300))
    assert (stage.folder / WEIGHTS).read_bytes() == good
    assert not list(stage.folder.glob(".*"))


def test_a_damaged_record_is_named(stage):
    (stage.folder / RECORD).write_text('{"hash": ')
    with pytest.raises(UserError, match="stage.json is not valid JSON"):
        _ = stage.record


def test_the_first_difference_is_named_by_its_key():
    a = {"run": {"name": "x"}, "code": {"loss": {"norm": "l1", "every": 1}}, "seed": 0}
    b = {"run": {"name": "y"}, "code": {"loss": {"norm": "l1", "every": 2}}, "seed": 1}
    assert first_difference(a, b) == "code.loss.every"
    assert first_difference(a, {**a, "run": {"name": "y"}}) is None
