import hashlib

import pytest
import torch

from ldm.errors import UserError
from ldm.weights import VGG16, WeightFile, resolve_weight

CONTENT = b"weights" * 1000


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The two folders that are searched, both empty."""
    chosen, hub = tmp_path / "chosen", tmp_path / "torch" / "hub" / "checkpoints"
    for folder in (chosen, hub):
        folder.mkdir(parents=True)
    monkeypatch.setenv("DISDIFF_WEIGHTS", str(chosen))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return chosen, hub


@pytest.fixture
def weight(tmp_path):
    """A weight file whose publisher is a local file."""
    source = tmp_path / "published.bin"
    source.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return WeightFile("tiny", "tiny.pth", source.as_uri(), digest[:8], 1, "a test", "loss.tiny=none")


def test_the_configured_path_wins_then_the_variable_then_the_cache(folders, weight, tmp_path):
    chosen, hub = folders
    given = tmp_path / "given.pth"
    for path in (given, chosen / "tiny.pth", hub / "tiny.pth"):
        path.write_bytes(b"")
    assert resolve_weight(weight, given) == given
    assert resolve_weight(weight) == chosen / "tiny.pth"
    (chosen / "tiny.pth").unlink()
    assert resolve_weight(weight, allow_download=True) == hub / "tiny.pth"


def test_the_configured_path_may_be_a_folder(folders, weight):
    (folders[1] / "tiny.pth").write_bytes(b"")
    assert resolve_weight(weight, str(folders[1])) == folders[1] / "tiny.pth"


def test_a_wrong_configured_path_is_not_replaced_by_another(folders, weight):
    (folders[0] / "tiny.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights.tiny=/nowhere is not a file"):
        resolve_weight(weight, "/nowhere")


def test_absence_is_explained_in_one_line(folders):
    with pytest.raises(UserError) as caught:
        resolve_weight(VGG16)
    message = str(caught.value)
    for part in (
        "LPIPS",
        VGG16.url,
        "528 MB",
        "397923af",
        "weights.vgg16=PATH",
        "weights.allow_download=true",
        "autoencoder.loss.perceptual=none",
        *map(str, folders),
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("variable", [True, False])
def test_a_permitted_download_is_verified_and_kept(folders, weight, monkeypatch, variable):
    if not variable:
        monkeypatch.delenv("DISDIFF_WEIGHTS")
    path = resolve_weight(weight, allow_download=True)
    assert path == folders[0 if variable else 1] / "tiny.pth"
    assert path.read_bytes() == CONTENT
    assert resolve_weight(weight) == path


def test_a_wrong_checksum_leaves_no_file(folders, weight):
    damaged = WeightFile(**{**vars(weight), "sha256": "00000000"})
    with pytest.raises(UserError, match="expected 00000000"):
        resolve_weight(damaged, allow_download=True)
    assert not any(file.is_file() for folder in folders for file in folder.rglob("*"))


def test_an_unreachable_address_leaves_no_file(folders, weight):
    gone = WeightFile(**{**vars(weight), "url": weight.url + ".gone"})
    with pytest.raises(UserError, match=r"cannot be downloaded.*weights.tiny=PATH"):
        resolve_weight(gone, allow_download=True)
    assert not any(file.is_file() for folder in folders for file in folder.rglob("*"))


def test_advice_is_written_for_the_command_line_of_the_caller(folders, weight):
    gone = WeightFile(**{**vars(weight), "url": weight.url + ".gone"})
    damaged = WeightFile(**{**vars(weight), "sha256": "00000000"})
    for option in ("", "--set "):
        for wanted, path, download in (
            (weight, None, False),
            (weight, "/nowhere", False),
            (gone, None, True),
            (damaged, None, True),
        ):
            with pytest.raises(UserError) as caught:
                resolve_weight(wanted, path, download, option)
            advice = str(caught.value).split("weights.tiny=PATH")[0]
            assert advice.endswith(" " + option) and ("--set" in advice) is bool(option)
