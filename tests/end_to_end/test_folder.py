"""A folder of one's own pictures: mixed sizes, modes and formats, nested, without labels; one command."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

BASE = "configs/disdiff/folder.yaml"
NAME = "disdiff-folder-smoke-s0"
KINDS = [  # suffix, mode, options
    ("jpg", "RGB", {}),
    ("jpg", "L", {}),
    ("jpeg", "CMYK", {}),
    ("jpg", "RGB", {"turned": 6}),
    ("png", "RGB", {}),
    ("png", "RGBA", {}),
    ("png", "LA", {}),
    ("png", "P", {}),
    ("png", "1", {}),
    ("png", "I;16", {}),
    ("webp", "RGB", {}),
    ("gif", "P", {}),
    ("BMP", "RGB", {}),
    ("tif", "L", {}),
]


def make_pictures(folder, count):
    """Discs on coloured grounds."""
    rng = np.random.default_rng(0)
    for number in range(count):
        suffix, mode, options = KINDS[number % len(KINDS)]
        height, width = rng.integers(20, 200, 2)
        y, x = np.mgrid[:height, :width]
        disc = (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2 < (
            min(height, width) / 3
        ) ** 2
        colours = rng.integers(0, 256, (2, 3), dtype=np.uint8)
        pixels = colours[disc.astype(int)]
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        elif mode != "RGB":
            image = image.convert(mode)
        path = folder / f"album {number % 7}" / f"{'ü' * (number % 2)}{number:05}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if "turned" in options:
            exif[0x0112] = options["turned"]
            image.save(path, exif=exif)
        else:
            image.save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder, 60)
    return folder


@pytest.fixture
def folder_command(command):
    """Return a function that gives the arguments of main.py for a folder."""

    def build(root, data, *overrides):
        arguments = command(root, f"data.root={data}", *overrides)
        return ["--base", BASE, *arguments[2:]]

    return build


def test_a_folder_of_pictures_is_trained_on_and_drawn(call, folder_command, pictures, tmp_path):
    arguments = folder_command(tmp_path, pictures, "data.image_size=32")
    status, said, errors = call(*arguments)
    assert status == 0, errors
    assert "data folder (file, 60 images)" in said
    reason = "the data set has no factor labels and no attributes"
    assert said.count(reason) == 1
    metrics = json.loads((tmp_path / NAME / "metrics.json").read_text())
    assert metrics["scores"] is None and metrics["editing"] is None
    assert metrics["scores_reason"].startswith(reason)
    assert (
        metrics["dataset"]["num_images"] == 60 and "crop center, 32x32" in metrics["dataset"]["preparation"]
    )
    assert metrics["reconstruction"]["psnr"] > 0
    report = (tmp_path / NAME / "report.html").read_text()
    assert f"No scores: {reason}" in report
    for name in ("swap.png", "traversal.png", "reconstruction.png", "samples.png", "codes.npz"):
        assert (tmp_path / NAME / name).exists()
    status, said, _ = call(*arguments)
    assert status == 0 and said.count("loaded from") == 3


def test_corrupt_pictures_stop_or_are_left_out(call, folder_command, pictures, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    bad = sorted(data.rglob("*.png"))[3]
    bad.write_bytes(bad.read_bytes()[:30])
    status, _, errors = call(*folder_command(tmp_path, data))
    last = errors.splitlines()[-1]
    assert status == 2 and bad.name in last and "data.corrupt=skip" in last and "Traceback" not in errors
    arguments = folder_command(tmp_path, data, "data.corrupt=skip")
    status, said, errors = call(*(word for word in arguments if word != "-t"))
    assert status == 0, errors
    assert f"1 pictures cannot be read and are left out: {bad.relative_to(data)}" in said
    assert "data folder (file, 59 images)" in said


def test_an_empty_folder(call, folder_command, tmp_path):
    (tmp_path / "data").mkdir()
    status, _, errors = call(*folder_command(tmp_path, tmp_path / "data"))
    assert status == 2 and errors.count("\n") == 1 and "has no pictures" in errors


@pytest.mark.slow
@pytest.mark.parametrize("with_attributes", [False, True])
def test_five_thousand_mixed_files_with_one_command(start, tmp_path, with_attributes):
    make_pictures(tmp_path / "data", 5000)
    if with_attributes:
        names = sorted(
            path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.*")
        )
        values = np.random.default_rng(1).integers(0, 2, (5000, 2))
        rows = [f"{name},{a},{b}" for name, (a, b) in zip(names, values, strict=True)]
        (tmp_path / "data" / "attributes.csv").write_text("\n".join(["file,one,two", *rows]) + "\n")
    process = start(
        "--base", BASE, "-t", "preset=smoke", f"data.root={tmp_path / 'data'}", f"run.root={tmp_path}"
    )
    said, errors = process.communicate(timeout=3000)
    assert process.returncode == 0, errors
    metrics = json.loads((tmp_path / NAME / "metrics.json").read_text())
    assert metrics["dataset"]["num_images"] == 5000
    if with_attributes:
        scores = metrics["scores"]["fast"]
        assert set(scores) >= {"tad", "tad_eleven_thresholds", "latent_quality"} and "TAD" in said
        assert "which FactorVAE, DCI and similar scores need" in metrics["scores_reason"]
    else:
        assert metrics["scores"] is None and "no factor labels" in said
