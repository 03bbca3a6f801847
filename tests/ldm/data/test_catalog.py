import numpy as np
import pytest
from PIL import Image

from ldm.data.catalog import DATA_SETS, DataOptions, open_data
from ldm.data.sources import ORIGINS
from ldm.errors import UserError


def test_every_data_set_has_an_origin():
    assert set(DATA_SETS) == set(ORIGINS)


DRAWN = [name for name, each in DATA_SETS.items() if each.open is None]


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name not in DRAWN])
def test_what_is_not_there_is_one_sentence(tmp_path, name):
    """Also for a folder that does not exist, as on a fresh checkout."""
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=f"disdiff data {name}|data.root") as failure:
            open_data(DataOptions(name, str(root), "never"))
        assert str(root) in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize("name", DRAWN)
def test_what_has_no_files_is_always_drawn(tmp_path, name):
    source = open_data(DataOptions(name, f"data/{name}"))
    assert source.procedural and source.name == name and len(source) == len(source.factor_space)
    with pytest.raises(UserError, match=f"{name} has no files, it is always drawn"):
        open_data(DataOptions(name, f"data/{name}", "never"))
    with pytest.raises(UserError, match="drawn and has no files; leave data.root=.* out"):
        open_data(DataOptions(name, str(tmp_path)))


@pytest.mark.parametrize("name", ["shapes3d", "dsprites", "dsprites_color", "dsprites_noise"])
def test_procedural_stand_ins(tmp_path, name):
    assert open_data(DataOptions(name, str(tmp_path))).procedural
    assert open_data(DataOptions(name, str(tmp_path), "always")).name == name


def test_a_file_is_preferred_to_its_stand_in(tmp_path, shapes3d):
    shapes3d.write_h5(tmp_path)
    assert not open_data(DataOptions("shapes3d", str(tmp_path))).procedural
    assert open_data(DataOptions("shapes3d", str(tmp_path), "always")).procedural


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "shapes4d"}, "data.name=shapes4d is unknown; choose one of shapes3d"),
        ({"name": "shapes3d", "procedural": "maybe"}, "data.procedural=maybe is unknown"),
        ({"name": "cars3d", "procedural": "always"}, "no procedural cars3d; .* with shapes3d, .*glyphs"),
        ({"name": "shapes3d", "image_size": 24}, "data.image_size=24 does not fit.*choose 16, 32,"),
        ({"name": "shapes3d", "image_size": 4}, "data.image_size=4 does not fit shapes3d"),
        ({"name": "shapes3d", "image_size": 128}, "data.image_size=128 does not fit"),
        ({"name": "mpi3d_toy", "crop": "pad"}, "data.crop only applies to picture files"),
        ({"name": "folder", "partition": "train"}, "data.partition is only for celeba"),
        ({"name": "shapes3d", "antialias": True}, "data.antialias is only for procedural dsprites"),
        ({"name": "celeba", "partition": "half"}, "data.partition=half is unknown"),
        ({"name": "folder", "crop": "round"}, "data.crop=round is unknown"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        open_data(DataOptions(root=str(tmp_path), **options))


def test_a_folder_takes_size_and_crop(tmp_path):
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(tmp_path / "a.png")
    source = open_data(DataOptions("folder", str(tmp_path), image_size=16, crop="pad"))
    assert source.image_size == 16 and source.preparation.startswith("crop pad, 16x16")
    assert open_data(DataOptions("folder", str(tmp_path))).image_size == 64


@pytest.mark.parametrize("name", ["shapes3d", "dsprites"])
@pytest.mark.parametrize("root", ["absent", "file.txt", "deep/er/absent"])
def test_a_folder_that_was_named_and_is_not_there_is_no_reason_to_draw(tmp_path, name, root):
    (tmp_path / "file.txt").write_text("no folder")
    with pytest.raises(UserError, match="data.root=.* is not a folder; .*data.procedural=always"):
        open_data(DataOptions(name, str(tmp_path / root)))
    assert open_data(DataOptions(name, str(tmp_path / root), "always")).procedural


def test_the_shipped_folders_need_not_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, root in (
        ("shapes3d", "data/shapes3d"),
        ("dsprites", "data/dsprites"),
        ("dsprites", "data/shapes3d"),
    ):
        assert open_data(DataOptions(name, root)).procedural
