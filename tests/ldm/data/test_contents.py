"""No changed byte of a data set goes unnoticed, and unchanged files are read once."""

import json
import os

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data import cars3d, contents, mpi3d
from ldm.data.archives import RowFormat, npz_rows
from ldm.data.arrays import open_npy
from ldm.data.cars3d import open_cars3d
from ldm.data.catalog import DataOptions, open_data
from ldm.data.contents import FILE, Contents, digest_file, digest_rows
from ldm.data.factor_space import FactorSpace
from ldm.data.mpi3d import open_mpi3d
from ldm.data.prepare import convert
from ldm.data.shapes3d import Shapes3D


@pytest.fixture(params=["recent", "settled"], autouse=True)
def settled(request, monkeypatch):
    """Files count as changed long ago, so that their digests are kept, or as changed just now."""
    if request.param == "settled":
        monkeypatch.setattr(contents, "SETTLED", -1.0)
    return request.param == "settled"


def replace(path, data):
    """Other bytes of the same number under the same name, the time of the last change set back."""
    before = path.stat()
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    replace(path, bytes(data))


def fill(root, count=100):
    root.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 2, 3)).save(root / f"{number:03}.bmp")


def open_folder(root, **options):
    return open_data(DataOptions("folder", str(root), image_size=8, **options))


class TestFolders:
    @pytest.mark.parametrize("corrupt", ["stop", "skip"])
    @pytest.mark.parametrize("number", [1, 50, 98])
    def test_one_picture_replaced_by_one_of_the_same_size(self, tmp_path, number, corrupt):
        fill(tmp_path)
        first = open_folder(tmp_path, corrupt=corrupt).identity
        assert open_folder(tmp_path, corrupt=corrupt).identity == first
        flip(tmp_path / f"{number:03}.bmp", -1)
        assert open_folder(tmp_path, corrupt=corrupt).identity != first

    def test_two_pictures_that_change_names(self, tmp_path):
        fill(tmp_path)
        first = open_folder(tmp_path).identity
        (tmp_path / "040.bmp").rename(tmp_path / "x")
        (tmp_path / "041.bmp").rename(tmp_path / "040.bmp")
        (tmp_path / "x").rename(tmp_path / "041.bmp")
        assert open_folder(tmp_path).identity != first

    def test_a_picture_that_becomes_corrupt_and_keeps_its_size(self, tmp_path):
        fill(tmp_path)
        assert open_folder(tmp_path, corrupt="skip").skipped == ()
        replace(tmp_path / "050.bmp", bytes((tmp_path / "050.bmp").stat().st_size))
        assert open_folder(tmp_path, corrupt="skip").skipped == ("050.bmp",)

    def test_a_copy_elsewhere_is_the_same(self, tmp_path):
        fill(tmp_path / "a"), fill(tmp_path / "b")
        assert open_folder(tmp_path / "a").identity == open_folder(tmp_path / "b").identity

    def test_a_converted_array_that_was_changed_is_not_used(self, tmp_path):
        fill(tmp_path)
        source = open_folder(tmp_path)
        path = convert(source)
        assert torch.equal(
            open_folder(tmp_path).images(torch.tensor([50])), source.images(torch.tensor([50]))
        )
        flip(path, path.stat().st_size // 2)
        changed = open_folder(tmp_path)
        assert changed._prepared is None
        assert torch.equal(changed.images(torch.arange(100)), source.images(torch.arange(100)))


class TestArchives:
    def test_mpi3d_changed_in_the_middle(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mpi3d, "GRIDS", (FactorSpace(mpi3d.NAMES, (3, 2, 2, 1, 1, 2, 2)),))
        images = np.random.default_rng(0).integers(0, 256, (48, 64, 64, 3), dtype=np.uint8)
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "mpi3d_toy.npz", images=images)
            first = open_mpi3d("mpi3d_toy", tmp_path).identity
            assert open_mpi3d("mpi3d_toy", tmp_path).identity == first
            changed = images.copy()
            changed[25, 30, 30] ^= 1
            save(tmp_path / "mpi3d_toy.npz", images=changed)
            assert open_mpi3d("mpi3d_toy", tmp_path).identity != first

    @pytest.mark.parametrize("layout", [{}, {"chunks": (1, 64, 64, 3)}, {"chunks": (25, 64, 64, 3)}])
    def test_shapes3d_changed_in_the_middle(self, tmp_path, shapes3d, layout):
        path = shapes3d.write_h5(tmp_path, **layout)
        first = Shapes3D(tmp_path).identity
        assert Shapes3D(tmp_path).identity == first
        with h5py.File(path, "r+") as file:
            file["images"][27, 5, 5, 1] ^= 1
        source = Shapes3D(tmp_path)
        assert source.identity != first
        assert source.images(torch.tensor([27]))[0, 1, 5, 5] == shapes3d.images[27, 5, 5, 1] ^ 1

    def test_an_lmdb_changed_in_the_middle(self, tmp_path):
        lmdb = pytest.importorskip("lmdb")

        fill(tmp_path / "pictures", 40)
        entries = {
            path.stem.encode(): path.read_bytes() for path in sorted((tmp_path / "pictures").iterdir())
        }

        def identify(entries, number):
            """Identity of a database of its own that then takes the place of the one before."""
            environment = lmdb.open(str(tmp_path / f"{number}"), map_size=2**24)
            with environment.begin(write=True) as transaction:
                for item in entries.items():
                    transaction.put(*item)
            environment.close()
            (tmp_path / "root").mkdir(exist_ok=True)
            (tmp_path / f"{number}" / "data.mdb").replace(tmp_path / "root" / "data.mdb")
            return open_data(DataOptions("bedroom", str(tmp_path / "root"), image_size=8)).identity

        first = identify(entries, 1)
        assert identify(entries, 2) == first
        assert identify({**entries, b"021": entries[b"022"]}, 3) != first

    def test_a_replaced_archive_that_is_older_than_what_was_unpacked(self, tmp_path):
        path, form = tmp_path / "a.npz", RowFormat("images", (4, 5), np.uint8)
        images = np.zeros((10, 4, 5), np.uint8)
        np.savez_compressed(path, images=images)
        assert np.array_equal(npz_rows(path, form, tmp_path / "a.npy"), images)
        np.savez_compressed(path, images=images + 1)
        os.utime(path, (0, 0))
        assert np.array_equal(npz_rows(path, form, tmp_path / "a.npy"), images + 1)

    def test_cars_whose_files_change_places(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cars3d, "SPACE", FactorSpace(cars3d.SPACE.names, (4, 24, 2)))
        monkeypatch.setattr(
            cars3d, "read_car", lambda path: np.full((24, 4, 64, 64, 3), path.read_bytes()[0])
        )
        (tmp_path / "a.mat").write_bytes(b"1"), (tmp_path / "b.mat").write_bytes(b"2")
        (tmp_path / "._a.mat").write_bytes(b"of another system")
        first = open_cars3d(tmp_path)
        assert first.images(torch.arange(2))[:, 0, 0, 0].tolist() == [ord("1"), ord("2")]
        (tmp_path / "a.mat").rename(tmp_path / "c.mat")
        second = open_cars3d(tmp_path)
        assert second.images(torch.arange(2))[:, 0, 0, 0].tolist() == [ord("2"), ord("1")]
        assert second.identity != first.identity


class TestContents:
    def compute(self, folder, path):
        """The digest, and whether it was computed."""
        known, computed = Contents(folder), []
        digest = known.digest("a", path, lambda: computed.append(1) or digest_file(path))
        known.save()
        return digest, bool(computed)

    def test_only_files_at_rest_are_not_read_again(self, tmp_path, settled):
        path = tmp_path / "a"
        path.write_bytes(b"1")
        first, computed = self.compute(tmp_path, path)
        assert computed and self.compute(tmp_path, path) == (first, not settled)
        replace(path, b"2")
        assert self.compute(tmp_path, path) == (digest_file(path), True) and digest_file(path) != first

    def test_edited_and_damaged_digests_are_made_anew(self, tmp_path):
        path = tmp_path / "a"
        path.write_bytes(b"1")
        right, _ = self.compute(tmp_path, path)
        entry = f"{contents._stamp(path)} {'0' * 32}"
        for bad in ({"checksum": "0", "entries": {"a": entry}}, {"entries": {"a": entry}}, [], "x", {"a": 1}):
            (tmp_path / FILE).write_text(json.dumps(bad))
            assert self.compute(tmp_path, path) == (right, True)
        for text in ("", "{", "\0"):
            (tmp_path / FILE).write_text(text)
            assert self.compute(tmp_path, path) == (right, True)

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / FILE).mkdir()
        (tmp_path / FILE / "x").touch()
        fill(tmp_path, 3)
        assert open_folder(tmp_path).identity == open_folder(tmp_path).identity

    def test_names_that_are_no_text(self, tmp_path):
        path = tmp_path / os.fsdecode(b"caf\xe9")
        path.write_bytes(b"1")
        known = Contents(tmp_path)
        assert known.digest_file(path) == digest_file(path)
        known.save()
        assert Contents(tmp_path).digest_file(path) == digest_file(path)

    def test_rows_have_the_digest_of_their_values(self, tmp_path):
        rows = np.random.default_rng(0).integers(0, 256, (1000, 7), dtype=np.uint8)
        np.save(tmp_path / "a.npy", rows)
        assert digest_rows(open_npy(tmp_path / "a.npy")) == digest_rows(rows)
        assert digest_rows(rows[::-1]) != digest_rows(rows) != digest_rows(rows.reshape(7, 1000))
