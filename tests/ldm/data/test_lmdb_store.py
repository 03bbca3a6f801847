import builtins
import io

import pytest
import torch
from PIL import Image

from ldm.data.batches import ImageBatches, StepSampler, build_loader
from ldm.data.catalog import DataOptions, open_data
from ldm.data.lmdb_store import LmdbStore, find_lmdb, import_lmdb
from ldm.errors import UserError


def encode(red, size=16, kind="webp"):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (red, 0, 0)).save(buffer, kind, lossless=True)
    return buffer.getvalue()


@pytest.fixture
def write():
    """Return a function that writes entries as an LMDB in a folder."""
    lmdb = pytest.importorskip("lmdb")

    def save(folder, entries):
        folder.mkdir(parents=True, exist_ok=True)
        environment = lmdb.open(str(folder), map_size=2**26)
        with environment.begin(write=True) as transaction:
            for key, value in entries.items():
                transaction.put(key, value)
        environment.close()
        return folder

    return save


def lsun(count=30):
    return {f"{number * 7919 % 1000:040x}".encode(): encode(number * 8) for number in range(count)}


def numbered(count=30, sizes=(8, 16, 32)):
    entries = {f"{size}-{i:07}".encode(): encode(i * 8, size) for i in range(count) for size in sizes}
    return {**entries, b"length": str(count).encode()}


def first_last_and_random(count):
    """The first, the last and 1,000 random positions."""
    random = torch.randint(count, (1000,), generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.tensor([0, count - 1]), random])


def test_lsun_in_the_order_of_its_keys(tmp_path, write):
    entries = lsun()
    source = open_data(
        DataOptions("bedroom", str(write(tmp_path / "bedroom_train_lmdb", entries)), image_size=8)
    )
    reds = [Image.open(io.BytesIO(entries[key])).getpixel((0, 0))[0] for key in sorted(entries)]
    index = first_last_and_random(30)
    assert source.images(index)[:, 0, 4, 4].tolist() == [reds[i] for i in index.tolist()]


def test_numbered_keys_in_the_smallest_size_that_is_enough(tmp_path, write):
    path = write(tmp_path / "ffhq.lmdb", numbered())
    for wanted, found in ((8, 8), (9, 16), (32, 32), (64, 32)):
        store = LmdbStore(path, wanted)
        assert len(store.names) == 30 and store.names[29] == f"{found}-0000029"
        assert store.read(29) == encode(29 * 8, found)
    source = open_data(
        DataOptions("ffhq", str(tmp_path), image_size=16)
    )  # the database is found in its folder
    index = first_last_and_random(30)
    assert source.images(index)[:, 0, 0, 0].tolist() == (index * 8).tolist()


def test_keys_without_a_size(tmp_path, write):
    entries = {f"None-{i:07}".encode(): encode(i) for i in range(5)}
    assert LmdbStore(write(tmp_path, {**entries, b"length": b"5"}), 64).read(4) == encode(4)


def test_workers_open_the_database_for_themselves(tmp_path, write):
    source = open_data(DataOptions("ffhq", str(write(tmp_path, numbered())), image_size=16))
    source.images(torch.arange(3))  # this process has it open
    sampler = StepSampler(30, batch_size=10, num_steps=3, seed=0)
    loader = build_loader(ImageBatches(source, torch.arange(30)), sampler, num_workers=2, pin_memory=False)
    for positions, batch in zip(sampler, loader, strict=True):
        assert batch["image"][:, 0, 0, 0].tolist() == (positions * 8).tolist()


class TestBadInput:
    def test_truncated(self, tmp_path, write):
        """Pages that are missing would kill the process with SIGBUS."""
        path = write(tmp_path, numbered(count=200)) / "data.mdb"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=r"data.mdb is truncated: it needs \d+ bytes"):
            LmdbStore(tmp_path, 16)

    def test_no_database(self, tmp_path, write):
        (tmp_path / "data.mdb").write_bytes(bytes(10_000))
        with pytest.raises(UserError, match="data.mdb is neither a folder of pictures nor an LMDB"):
            LmdbStore(tmp_path, 16)

    def test_fewer_pictures_than_it_says(self, tmp_path, write):
        with pytest.raises(UserError, match="has 30 pictures of size 16, but says 31"):
            LmdbStore(write(tmp_path, {**numbered(), b"length": b"31"}), 16)

    def test_empty(self, tmp_path, write):
        with pytest.raises(UserError, match="has no pictures"):
            LmdbStore(write(tmp_path, {}), 16)

    def test_a_corrupt_picture_is_named_by_its_key(self, tmp_path, write):
        source = open_data(
            DataOptions("ffhq", str(write(tmp_path, {**numbered(), b"16-0000003": b"no"})), image_size=16)
        )
        with pytest.raises(UserError, match="16-0000003 cannot be read"):
            source.images(torch.tensor([3]))
        skipping = DataOptions("ffhq", str(tmp_path), image_size=16, corrupt="skip")
        assert open_data(skipping).skipped == ("16-0000003",) and len(open_data(skipping)) == 29

    def test_several_databases(self, tmp_path, write):
        write(tmp_path / "a", lsun()), write(tmp_path / "b", lsun())
        with pytest.raises(UserError, match="has 2 databases"):
            find_lmdb(tmp_path)

    def test_without_the_package(self, monkeypatch):
        real = builtins.__import__

        def refuse(name, *rest):
            if name == "lmdb":
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(UserError, match=r"needs the package lmdb; .*pip install -e '\.\[lmdb\]'"):
            import_lmdb()
