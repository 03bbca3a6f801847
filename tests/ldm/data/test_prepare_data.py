import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ldm.data import procedural
from ldm.data.shapes3d import SHAPES3D, Shapes3D

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
    monkeypatch.setattr(procedural, "ProceduralShapes3D", FakeShapes3D)

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
        (["check"], "prepare_data"),
        (["shapes3d", "--procedural", "--num-images", "0"], "from 1 to 480000"),
        (["shapes3d", "--procedural", "--num-images", "480001"], "from 1 to 480000"),
        (["shapes3d", "--num-images", "5"], "goes with --procedural"),
        (["shapes4d"], "invalid choice"),
    ],
)
def test_bad_input_exits_with_2(prepare, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = prepare(*arguments)
    assert status == 2 and message in error and "Traceback" not in error
