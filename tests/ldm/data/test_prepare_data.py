import http.server
import io
import runpy
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from disdiff.build import build_latent_space
from disdiff.config.schema import CONFIGS, load_config, to_yaml
from disdiff.runs.context import open_context
from disdiff.runs.encoding import encode_latents
from ldm.data import catalog, sources
from ldm.data.dsprites import DSPRITES, STEM, open_dsprites
from ldm.data.shapes3d import SHAPES3D, Shapes3D
from ldm.data.source import to_float
from ldm.data.sources import Origin, Remote

SCRIPT = Path(__file__).parents[3] / "scripts" / "prepare_data.py"


class FakeShapes3D:
    """In place of the renderer, which takes seconds to start: image i is filled with 1 + i mod 200."""

    procedural = True

    def __len__(self):
        return len(SHAPES3D)

    def images(self, index):
        return (1 + index % 200).to(torch.uint8)[:, None, None, None].repeat(1, 3, 64, 64)

    def factors(self, index):
        return SHAPES3D.factors(index)


@pytest.fixture
def prepare(monkeypatch, capsys):
    """Run the script; returns (exit status, standard output, standard error)."""
    monkeypatch.setattr(catalog, "ProceduralShapes3D", FakeShapes3D)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_says_what_is_needed(prepare, tmp_path):
    status, said, _ = prepare("shapes3d", "--root", tmp_path)
    assert status == 0
    for fact in ("3dshapes.h5", "5.9 GB", "github.com/google-deepmind/3d-shapes", "licence", str(tmp_path)):
        assert fact in said
    assert not list(tmp_path.iterdir())


STAND_INS = ("shapes3d", "dsprites", "dsprites_color", "dsprites_noise")


@pytest.mark.parametrize("name", [name for name, each in catalog.DATA_SETS.items() if each.open])
def test_every_data_set_says_what_is_needed(prepare, tmp_path, name):
    status, said, _ = prepare(name, "--root", tmp_path)
    assert status == 0 and "source" in said and "licence" in said and f"nothing in {tmp_path} yet" in said
    assert ("--download fetches it" in said) == bool(sources.ORIGINS[name].remotes)
    assert ("procedural stand-in" in said) == (name in STAND_INS)


@pytest.mark.parametrize("name", [name for name, each in catalog.DATA_SETS.items() if not each.open])
def test_what_is_drawn_needs_no_files(prepare, tmp_path, name):
    status, said, _ = prepare(name)
    assert status == 0 and "none, the images are drawn when they are read" in said
    status, _, error = prepare(name, "--procedural", "--root", tmp_path)
    assert status == 2 and f"{name} is drawn when it is read" in error and not list(tmp_path.iterdir())


def test_renders_dsprites(prepare, tmp_path):
    status, said, _ = prepare("dsprites", "--procedural", "--num-images", 50, "--root", tmp_path)
    assert status == 0 and f"{STEM}.npz: procedural images" in said
    source = open_dsprites(tmp_path)
    index = DSPRITES.index(source.factors(torch.arange(50)))
    assert source.procedural and torch.equal(index, index.unique())
    status, said, _ = prepare("check", "--root", tmp_path)
    assert status == 0 and "good; 50 of 737280 images, procedural" in said


class TestPictures:
    @pytest.fixture
    def folder(self, tmp_path):
        for number in range(9):
            (tmp_path / "deep").mkdir(exist_ok=True)
            Image.new("RGB", (20, 30), (number, 0, 0)).save(tmp_path / "deep" / f"{number}.png")
        return tmp_path

    def test_check_counts_and_names_corrupt_ones(self, prepare, folder):
        status, said, _ = prepare("check", "folder", "--root", folder)
        assert status == 0 and "good; 9 pictures" in said
        (folder / "deep" / "4.png").write_bytes(b"no")
        status, _, error = prepare("check", "folder", "--root", folder)
        assert status == 2 and "1 of 9 pictures cannot be read: deep/4.png (it is not a picture)" in error

    def test_convert(self, prepare, folder):
        (folder / "deep" / "4.png").write_bytes(b"no")
        convert = ("folder", "--root", folder, "--convert", "--image-size", 8)
        status, _, error = prepare(*convert)
        assert status == 2 and "deep/4.png cannot be read" in error
        status, said, _ = prepare(*convert, "--corrupt", "skip")
        assert status == 0 and "8 pictures, 1 left out" in said
        assert np.load(next(folder.glob(".disdiff-folder-*.npy"))).shape == (8, 3, 8, 8)


class TestEncode:
    """The latents that the later stages of a run read, ahead of time."""

    @pytest.fixture
    def run(self, tmp_path):
        """A run on a folder of 9 pictures, 7 of them to train on, whose autoencoder is tiny and untrained."""
        (tmp_path / "data").mkdir()
        for number in range(9):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / f"{number}.png")
        tiny = ["preset=smoke", "autoencoder.network.channels=8", "autoencoder.network.num_groups=4"]
        places = [f"data.root={tmp_path / 'data'}", f"run.root={tmp_path}", "run.name=run"]
        sizes = ["data.num_train=7", "data.image_size=32", "trainer.device=cpu"]
        config = load_config([CONFIGS / "disdiff" / "folder.yaml"], [*tiny, *places, *sizes])
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
        return config

    def train(self, config):
        """Stand-in for the training of the first stage."""
        torch.manual_seed(0)
        latent_space = build_latent_space(config).eval()
        open_context(config).stages["autoencoder"].save(latent_space, {"image_size": 32})
        return latent_space.autoencoder

    def test_the_latents_are_those_of_the_training_images(self, prepare, run, tmp_path):
        autoencoder = self.train(run)
        status, said, error = prepare("folder", "--encode", tmp_path / "run")
        assert status == 0 and "7 latents are cached" in said, error
        (path,) = (tmp_path / "_stages").glob("latents-*/latents.npy")
        context = open_context(run)
        with torch.no_grad():
            images = to_float(context.source.images(context.train_index))
            expected = autoencoder.encode_statistics(images)
        np.testing.assert_allclose(np.load(path), expected, atol=1e-5)
        made = path.stat().st_mtime_ns
        assert prepare("folder", "--encode", tmp_path / "run")[0] == 0 and path.stat().st_mtime_ns == made
        context.stages["autoencoder"].load(context.latent_space)
        cache = encode_latents(context)  # what the later stages do
        assert len(cache) == 7 and path.stat().st_mtime_ns == made

    def test_what_cannot_be_encoded(self, prepare, run, tmp_path, no_file_larger_than):
        status, _, error = prepare("folder", "--encode", tmp_path / "run")
        assert status == 2 and "has no trained autoencoder to encode with; train it first" in error
        status, _, error = prepare("shapes3d", "--encode", tmp_path / "run")
        assert status == 2 and "is a run on folder, not on shapes3d" in error
        self.train(run)
        with no_file_larger_than(2_000):  # a full disk
            status, _, error = prepare("folder", "--encode", tmp_path / "run")
        assert status == 2 and "cannot write" in error and "free some space" in error
        status, said, _ = prepare("folder", "--encode", tmp_path / "run", "--root", tmp_path / "data")
        assert status == 0 and "7 latents are cached" in said


class TestDownload:
    """`served` is what the publisher has, `sources.ORIGINS` says where."""

    @pytest.fixture
    def served(self, tmp_path, monkeypatch):
        folder = tmp_path / "served"
        folder.mkdir()

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        remotes = {
            "shapes3d": (Remote(f"{url}/3dshapes.h5", "3dshapes.h5"),),
            "cars3d": (Remote(f"{url}/cars.tar.gz", "cars.tar.gz", "cars/*.mat"),),
        }
        for name, each in remotes.items():
            monkeypatch.setitem(sources.ORIGINS, name, Origin(name, "files", url, remotes=each))
        yield folder
        server.shutdown()
        thread.join()
        server.server_close()

    def test_fetches_once_and_notes_the_checksum(self, prepare, served, tmp_path, shapes3d):
        shapes3d.write_h5(served)
        root = tmp_path / "data"
        status, said, _ = prepare("shapes3d", "--download", "--root", root)
        assert status == 0 and "3dshapes.h5" in said
        assert (root / "3dshapes.h5").read_bytes() == (served / "3dshapes.h5").read_bytes()
        assert "everything is there" in prepare("shapes3d", "--download", "--root", root)[1]
        assert prepare("check", "--root", root)[0] == 0
        with (root / "3dshapes.h5").open("r+b") as file:  # a bit flips on the disk
            file.seek(-10, 2)
            file.write(b"x")
        status, _, error = prepare("check", "--root", root)
        assert status == 2 and "has changed since its download" in error

    def write_archive(self, served, names):
        with tarfile.open(served / "cars.tar.gz", "w:gz") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 10_000
                archive.addfile(member, io.BytesIO(np.random.default_rng(len(name)).bytes(10_000)))

    def test_takes_what_is_needed_out_of_an_archive(self, prepare, served, tmp_path):
        self.write_archive(
            served, ["data/cars/car_001_mesh.mat", "data/sprites/a.mat", "data/../../cars/x.mat"]
        )
        root = tmp_path / "data"
        assert prepare("cars3d", "--download", "--root", root)[0] == 0
        assert sorted(path.name for path in root.rglob("*") if path.is_file()) == [
            "car_001_mesh.mat", "checksums.json", "x.mat"
        ]  # fmt: skip
        assert not list(tmp_path.glob("*.mat"))

    def test_an_archive_with_two_files_of_one_name(self, prepare, served, tmp_path):
        self.write_archive(served, ["one/cars/a.mat", "another/cars/a.mat"])
        status, _, error = prepare("cars3d", "--download", "--root", tmp_path / "data")
        assert status == 2 and "cars.tar.gz has two files a.mat; delete it" in error

    def test_an_archive_that_was_not_unpacked_to_its_end(self, prepare, served, tmp_path):
        self.write_archive(served, ["cars/a.mat", "cars/b.mat"])
        root = tmp_path / "data"
        (root / "cars").mkdir(parents=True)
        (root / "cars" / "a.mat").write_bytes(b"1")
        (root / "cars.tar.gz").write_bytes((served / "cars.tar.gz").read_bytes())
        assert prepare("cars3d", "--download", "--root", root)[0] == 0
        assert (root / "cars" / "b.mat").stat().st_size == 10_000 and not (root / "cars.tar.gz").exists()

    def test_a_truncated_archive_or_one_of_something_else(self, prepare, served, tmp_path):
        self.write_archive(served, ["data/cars/car_001_mesh.mat", "data/cars/car_002_mesh.mat"])
        whole = (served / "cars.tar.gz").read_bytes()
        (served / "cars.tar.gz").write_bytes(whole[: len(whole) * 3 // 4])
        status, _, error = prepare("cars3d", "--download", "--root", tmp_path / "data")
        assert status == 2 and "cars.tar.gz is a damaged archive" in error
        assert not (tmp_path / "data" / "cars" / "car_002_mesh.mat").exists()
        self.write_archive(served, ["other.txt"])
        status, _, error = prepare("cars3d", "--download", "--root", tmp_path / "more")
        assert status == 2 and "has no cars/*.mat" in error

    def test_what_a_program_cannot_fetch(self, prepare, tmp_path):
        status, _, error = prepare("celeba", "--download", "--root", tmp_path)
        assert status == 2 and "get it by hand from https://mmlab" in error


def test_renders_a_subset_in_the_layout_of_the_real_file(prepare, tmp_path):
    render = ("shapes3d", "--procedural", "--num-images", 20, "--root", tmp_path)
    assert prepare(*render, "--seed", 1)[0] == 0
    with h5py.File(tmp_path / "3dshapes.h5") as file:
        assert (file["images"].shape, file["images"].dtype) == ((20, 64, 64, 3), np.uint8)
        assert (file["labels"].shape, file["labels"].dtype) == ((20, 6), np.float64)
    source = Shapes3D(tmp_path)
    position = torch.arange(20)
    index = SHAPES3D.index(source.factors(position))
    assert source.procedural and torch.equal(index, index.unique())
    assert torch.equal(source.images(position), FakeShapes3D().images(index))
    identity = source.identity
    prepare(*render, "--seed", 2)  # replaces a procedural file
    assert Shapes3D(tmp_path).identity != identity
    prepare(*render, "--seed", 1)
    assert Shapes3D(tmp_path).identity == identity


def test_never_replaces_the_published_file(prepare, tmp_path, shapes3d):
    path = shapes3d.write_h5(tmp_path)
    before = path.read_bytes()
    status, _, error = prepare("shapes3d", "--procedural", "--num-images", 20, "--root", tmp_path)
    assert status == 2 and "not procedural; move it away" in error and path.read_bytes() == before


def test_check_accepts_a_good_file(prepare, tmp_path, shapes3d):
    shapes3d.write_h5(tmp_path)
    status, said, _ = prepare("check", "--root", tmp_path)
    assert status == 0 and "good; 50 of 480000 images, the published data" in said


def test_check_finds_empty_images(prepare, tmp_path, shapes3d):
    shapes3d.images[[3, 40]] = 0
    shapes3d.write_npz(tmp_path)
    status, _, error = prepare("check", "--root", tmp_path)
    assert status == 2 and "has 2 empty images" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["check"], "disdiff data NAME"),
        (["shapes3d", "--procedural", "--num-images", "0"], "from 1 to 480000"),
        (["shapes3d", "--procedural", "--num-images", "480001"], "from 1 to 480000"),
        (["shapes3d", "--num-images", "5"], "only applies to --procedural"),
        (["shapes4d"], "invalid choice"),
        (
            ["cars3d", "--procedural"],
            "cars3d has no procedural version; --procedural works with shapes3d and dsprites",
        ),
        (["shapes3d", "cars3d"], "give one data set, or `check` or `show` and a data set"),
        (["show"], "needs the name of a data set"),
        (["shapes3d", "--procedural", "--convert", "--num-images", "2"], "needs no conversion"),
        (["shapes3d", "--encode", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_exits_with_2(prepare, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(catalog.DATA_SETS, "people_emoji")  # its font may be installed
    status, _, error = prepare(*arguments)
    assert status == 2 and message in error and "Traceback" not in error
