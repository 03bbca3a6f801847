"""Models of the hub, a fake one: from the cache of its client, by the network when asked, and to it."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

import disdiff
from disdiff.interop.hub import find_run
from ldm.errors import UserError
from ldm.files import load_json, save_json

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
NAME = "ann/tiny.model-1"
SPEC = importlib.util.spec_from_file_location("fake_hub", Path(__file__).with_name("fake_hub.py"))
fake_hub = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fake_hub)


def point_to(address, monkeypatch):
    """Make `address` the hub, as HF_ENDPOINT does before Python starts."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of the hub's client, and a working directory with nothing in it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub without models."""
    with fake_hub.serve_hub() as hub:
        point_to(hub.address, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield hub


@pytest.fixture
def run(tmp_path, write_tiny_run):
    """A tiny run of preset smoke."""
    folder = write_tiny_run(tmp_path / "runs" / "tiny")
    for name in ("autoencoder", "latent_diffusion", "code"):
        save_json(folder / "stages" / name / "stage.json", {"stage": name, "hash": name, "image_size": 64})
    return folder


@pytest.fixture
def filled(hub, run, tmp_path):
    """The hub with an exported run as `NAME`, and files that are no part of one."""
    exported = disdiff.load(run, "cpu").save_pretrained(tmp_path / "exported", "mit")
    files = {path.relative_to(exported).as_posix(): path for path in exported.rglob("*") if path.is_file()}
    hub.models[NAME] = {name: path.read_bytes() for name, path in files.items()}
    strays = {
        name: b"no" for name in ("train.py", "model.bin", "clip/a.pt", "stages/code/resume.ckpt", "x/y.png")
    }
    hub.models[NAME] |= strays
    return hub


def refused(call):
    """The sentence of a refusal."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fill_cache(cache, run, name=NAME, commit=40 * "a"):
    """Lay a run into the cache as the client does, without blobs."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(run, place / "snapshots" / commit)
    return place / "snapshots" / commit


def test_what_lies_in_the_cache_is_loaded_without_a_network(cache, run, monkeypatch):
    point_to("http://127.0.0.1:9", monkeypatch)
    folder = fill_cache(cache, run)
    model = disdiff.load(NAME, "cpu")
    assert model.run.folder.resolve() == folder.resolve()
    assert torch.equal(model.encode(IMAGES), disdiff.load(run, "cpu").encode(IMAGES))
    assert disdiff.load(NAME, "cpu", revision=40 * "a").run.folder == model.run.folder


def test_nothing_is_asked_of_the_hub_unasked(filled):
    says = refused(lambda: disdiff.load(NAME))
    assert f"disdiff.load('{NAME}', download=True)" in says and "cache" in says
    assert not filled.requests


def test_a_run_is_fetched_when_asked_and_nothing_else(filled, run, cache):
    model = disdiff.load(NAME, "cpu", download=True)
    assert torch.equal(model.encode(IMAGES), disdiff.load(run, "cpu").encode(IMAGES))
    got = {
        path.relative_to(model.run.folder).as_posix()
        for path in model.run.folder.rglob("*")
        if path.is_file()
    }
    assert got == {name for name, content in filled.models[NAME].items() if content != b"no"}
    filled.requests.clear()
    assert torch.equal(disdiff.load(NAME, "cpu").encode(IMAGES), model.encode(IMAGES))
    assert not filled.requests
    assert disdiff.load(NAME, "cpu", download=True, revision=fake_hub.COMMIT).run.folder == model.run.folder


@pytest.mark.parametrize("name", [NAME, "pretrained/mine", "runs/mine"])
def test_a_folder_wins_over_the_hub(filled, run, name):
    shutil.copytree(run, name)
    model = disdiff.load(name, "cpu", download=True)
    assert model.run.folder == Path(name) and not filled.requests
    assert "leave out revision=main" in refused(lambda: disdiff.load(name, revision="main"))


def test_what_ships_wins_over_the_hub(filled):
    assert find_run("pretrained/shapes3d", True) == "pretrained/shapes3d" and not filled.requests


@pytest.mark.parametrize("path", ["mine", "a/b/c", "./a/b", "../a", "~/b", "a/", "/a/b", "a//b", "ann/b c"])
def test_other_texts_are_no_names_of_the_hub(filled, path):
    assert "not a run folder" in refused(lambda: disdiff.load(path))
    assert "write owner/name" in refused(lambda: disdiff.load(path, download=True))
    assert not filled.requests


@pytest.mark.parametrize("path", [3, None, ["a/b"]])
def test_what_is_no_path_is_refused(path):
    assert "not the path of a run folder" in refused(lambda: disdiff.load(path))


@pytest.mark.parametrize("name", ["ann/absent", "bob/tiny.model-1", "runs/typo"])
def test_a_name_that_the_hub_does_not_know(filled, name):
    assert f"the hub has no model {name}" in refused(lambda: disdiff.load(name, download=True))


@pytest.mark.parametrize("name", ["a--b/c", "a/b..c", "a/" + 100 * "b"])
def test_a_name_that_the_client_refuses(filled, name):
    for download in (True, False):
        assert "write owner/name" in refused(lambda: disdiff.load(name, download=download))  # noqa: B023


def test_a_revision_that_is_not_there(filled):
    says = refused(lambda: disdiff.load(NAME, download=True, revision="v9"))
    assert says.startswith(f"{NAME} has no revision v9;")
    assert f"{NAME} at revision v9" in refused(lambda: disdiff.load(NAME, revision="v9"))


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "hf auth login"), (403, "hf auth login"), (500, "status 500"), (503, "again later")],
)
def test_a_hub_that_refuses(filled, run, status, says, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    filled.refuses = status
    assert says in refused(lambda: disdiff.load(NAME, download=True))
    assert says in refused(lambda: disdiff.load(run, "cpu").push_to_hub(NAME))


def test_no_network(cache, run, monkeypatch):
    point_to("http://127.0.0.1:9", monkeypatch)  # nobody listens there
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert "check the network" in refused(lambda: disdiff.load(NAME, download=True))
    assert "check the network" in refused(lambda: disdiff.load(run, "cpu").push_to_hub(NAME))


@pytest.mark.parametrize("within", ["", "models--ann--tiny.model-1", "models--ann--tiny.model-1/blobs"])
def test_a_cache_that_cannot_be_written(filled, cache, within):
    (cache / within).parent.mkdir(parents=True, exist_ok=True)
    (cache / within).write_text("a file where a folder should be")
    says = refused(lambda: disdiff.load(NAME, download=True))
    assert str(cache) in says and "HF_HUB_CACHE" in says


def test_a_full_disk(filled, cache, no_file_larger_than):
    with no_file_larger_than(10_000):
        says = refused(lambda: disdiff.load(NAME, download=True))
    assert "free some space" in says


@pytest.mark.parametrize("lacks", ["config.yaml", "stages/*/model.safetensors", "stages/*/stage.json"])
def test_what_is_no_exported_run(filled, lacks):
    ends = lacks.rpartition("/")[2]
    kept = {path: content for path, content in filled.models[NAME].items() if not path.endswith(ends)}
    filled.models[NAME] = kept
    for download in (True, False):
        says = refused(lambda: disdiff.load(NAME, download=download))  # noqa: B023
        assert f"not an exported run, because it lacks {lacks};" in says


def test_a_stage_that_is_missing_is_named(filled):
    del filled.models[NAME]["stages/latent_diffusion/model.safetensors"]
    assert "latent_diffusion/model.safetensors" in refused(lambda: disdiff.load(NAME, download=True))


def test_a_model_of_the_hub_cannot_ask_for_downloads(filled):
    config = filled.models[NAME]["config.yaml"]
    assert b"allow_download: false" in config
    filled.models[NAME]["config.yaml"] = config.replace(b"allow_download: false", b"allow_download: true")
    assert "weights.allow_download" in refused(lambda: disdiff.load(NAME, download=True))


def test_weights_that_changed_in_the_cache_are_noticed(filled):
    folder = disdiff.load(NAME, "cpu", download=True).run.folder
    blob = (folder / "stages" / "code" / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    says = refused(lambda: disdiff.load(NAME))
    assert says.startswith(f"code/model.safetensors of {NAME} is damaged; delete {blob}")
    blob.unlink()
    disdiff.load(NAME, "cpu", download=True)


def test_a_run_goes_to_the_hub_and_comes_back(hub, run, cache):
    model = disdiff.load(run, "cpu")
    hub.models[NAME] = {
        "discovery.json": b"of an older run",
        "notes.txt": b"of the owner",
        ".gitattributes": b"",
    }
    assert model.push_to_hub(NAME, "mit", private=True) == f"{hub.address}/{NAME}"
    assert hub.made_private and hub.made["organization"] == "ann"
    stages = {f"stages/{name}/{file}" for name in ("autoencoder", "latent_diffusion", "code")
              for file in ("model.safetensors", "stage.json")}  # fmt: skip
    ours = {"README.md", "config.yaml", "codes.npz"} | stages
    assert hub.models[NAME].keys() == ours | {"notes.txt", ".gitattributes"}
    card = hub.models[NAME]["README.md"].decode()
    assert f'disdiff.load("{NAME}", download=True)' in card and "license: mit" in card
    assert f"hf download {NAME} --local-dir tiny.model-1" in card
    back = disdiff.load(NAME, "cpu", download=True)
    assert torch.equal(back.encode(IMAGES), model.encode(IMAGES))


@pytest.mark.parametrize("name", ["mine", "a/b/c", "", "/b", "a b/c", "~/b"])
def test_a_run_needs_a_name_to_go_by(hub, run, name):
    assert "write owner/name" in refused(lambda: disdiff.load(run, "cpu").push_to_hub(name))
    assert not hub.requests


def test_pickles_stay_here(hub, run, monkeypatch):
    from disdiff.interop import hub as module

    def export_with_pickle(*arguments):
        target = export(*arguments)
        (target / "clip").mkdir()
        (target / "clip" / "towers.pt").write_bytes(b"a pickle")
        return target

    export = module.export_run
    monkeypatch.setattr(module, "export_run", export_with_pickle)
    assert "towers.pt" in refused(lambda: disdiff.load(run, "cpu").push_to_hub(NAME))
    assert not hub.requests


def test_the_command_uploads(hub, run, load_script, call_script):
    export = load_script("export")
    status, said, errors = call_script(export, run, "--to-hub", NAME, "--private", "--license", "mit")
    assert status == 0 and not errors and said.splitlines()[-1] == f"{hub.address}/{NAME}"
    assert hub.made_private and "config.yaml" in hub.models[NAME]
    hub.refuses = 403
    status, said, errors = call_script(export, run, "--to-hub", NAME)
    assert status == 2 and len(errors.splitlines()) == 1 and "hf auth login" in errors
    for places in ([], ["out", "--to-hub", NAME]):
        status, said, errors = call_script(export, run, *places)
        assert status == 2 and len(errors.splitlines()) == 1 and "one place" in errors


def test_a_saved_run_says_how_a_folder_is_loaded(run, tmp_path):
    folder = disdiff.load(run, "cpu").save_pretrained(tmp_path / "mine")
    assert 'disdiff.load("mine")' in (folder / "README.md").read_text()
    assert load_json(folder / "stages" / "code" / "stage.json")["hash"] == "code"
