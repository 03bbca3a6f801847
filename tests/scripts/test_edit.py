import numpy as np
import pytest
import yaml
from PIL import Image

from ldm.data.procedural import ProceduralShapes3D
from ldm.files import save_json


@pytest.fixture
def folder(tmp_path, named_run):
    """A tiny run whose units 0 and 1 carry the floor hue, and two pictures beside it."""
    arrays = load(named_run / "codes.npz")
    factors = np.arange(len(arrays["codes"]))[:, None] % np.array(ProceduralShapes3D.factor_space.sizes)
    np.savez(named_run / "codes.npz", **arrays, factors=factors)
    importance = np.zeros((3, 6))
    importance[[0, 1, 2], [0, 0, 3]] = 0.4, 0.5, 0.3
    scores = {"fast": {"dci": {"importance": importance.tolist()}}}
    save_json(named_run / "metrics.json", {"system": "disdiff", "scores": scores})
    for name, size in (("photo", (90, 70)), ("other", (64, 64))):
        pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return named_run


@pytest.fixture
def call(folder, load_script, call_script):
    """Return a function that calls the script on the run: status, what it said, what it complained of."""

    def run(*arguments):
        return call_script(load_script("edit"), folder, *arguments, "--device", "cpu")

    return run


def load(path):
    with np.load(path) as file:
        return dict(file)


def test_a_unit_goes_towards_another_picture_by_name(call, tmp_path):
    name = ProceduralShapes3D.factor_space.names[0]
    status, said, _ = call("photo.png", "--unit", name, "--toward", "other.png", "--strength", 0.7)
    assert status == 0 and said.strip() == "edits/tiny-edit.png"
    assert Image.open(tmp_path / "edits" / "tiny-edit.png").width > 3 * 128
    half = load(tmp_path / "edits" / "tiny-edit.npz")
    assert half["units"].tolist() == [1, 0] and half["images"].shape == (1, 3, 64, 64)
    said = call("photo.png", "--unit", 0, "--toward", "other.png", "--unit", 1, "--toward", "other.png")[1]
    assert said.strip() == "edits/tiny-edit-2.png"  # the first edit is kept
    assert np.array_equal(load(tmp_path / "edits" / "tiny-edit.npz")["codes"], half["codes"])
    whole = load(tmp_path / "edits" / "tiny-edit-2.npz")
    assert np.array_equal(half["codes_before"], whole["codes_before"])
    change = whole["codes"] - whole["codes_before"]
    assert np.abs(change[:, :2]).min() > 0 and not change[:, 2].any()
    np.testing.assert_allclose(half["codes"] - half["codes_before"], 0.7 * change, atol=1e-6)


def test_a_unit_moves_along_its_direction(call, tmp_path):
    codes = {}
    for by in ("+2", "-1"):
        assert call("photo.png", "--unit", 2, "--by", by, "--out", "a.png")[0] == 0
        codes[by] = load(tmp_path / "a.npz")
    moved = {by: each["codes"] - each["codes_before"] for by, each in codes.items()}
    np.testing.assert_allclose(moved["+2"], -2 * moved["-1"], atol=1e-6)
    assert not moved["+2"][:, :2].any() and moved["+2"][:, 2].any()


def test_attributes_and_walks(call, tmp_path):
    pictures = set()
    for i, command in enumerate(
        [("12", "--attribute", "shape=0"), ("12", "--attribute", "shape=0", "--reach", 0.6),
         ("12", "--walk", "photo.png"), ("12", "--walk", "photo.png", "--trajectory")]
    ):  # fmt: skip
        assert call(*command, "--columns", 3, "--out", f"{i}.png")[0] == 0
        pictures.add((tmp_path / f"{i}.png").read_bytes())
    assert len(pictures) == 4
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([], "give exactly one of --unit"),
        (["photo.png", "--unit", "0", "--by", "1", "--walk", "other.png"], "give exactly one of --unit"),
        (["photo.png", "--unit", "0"], "needs exactly one of --toward"),
        (["photo.png", "--unit", "0", "--by", "1", "--toward", "other.png"], "needs exactly one of --toward"),
        (["photo.png", "--unit", "colour", "--by", "1"], "no unit has the name 'colour'"),
        (["photo.png", "--unit", "7", "--by", "1"], "there is no unit 7"),
        (["photo.png", "--by", "1"], "--by must follow the --unit"),
        (["missing.png", "--unit", "0", "--by", "1"], "cannot read the picture missing.png"),
        (["photo.png", "--unit", "0", "--toward", "runs/tiny/config.yaml"], "cannot read the picture"),
        (["12", "--attribute", "shape"], "write NAME=VALUE"),
        (["12", "--attribute", "colour=1"], "there is no factor 'colour'"),
        (["12", "--walk", "480000"], "images 0 to 479999"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_status_2(call, command, says):
    status, _, error = call(*command)
    assert status == 2 and says in error and "Traceback" not in error


def test_help_teaches_by_example(load_script, call_script):
    status, said, _ = call_script(load_script("edit"), "--help")
    assert status == 0 and '--unit "wall hue" --toward other.png --strength 0.7' in said


@pytest.mark.parametrize(
    "options",
    [
        ["--by", "nan"],
        ["--by=-inf"],
        ["--by", "1e999"],
        ["--toward", "other.png", "--strength", "nan"],
        ["--toward", "other.png", "--strength", "1.5"],
        ["--by", "1", "--steps", "0"],
    ],
)
def test_numbers_that_give_no_picture_are_refused(call, tmp_path, options):
    status, _, error = call("photo.png", "--unit", 0, *options)
    assert status == 2 and error.count("\n") == 1 and "out of range" in error
    assert not (tmp_path / "edits").exists()


def test_home_is_expanded_in_pictures_and_in_the_output(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, said, _ = call("~/photo.png", "--unit", 0, "--toward", "~/other.png", "--out", "~/out/a.png")
    assert status == 0 and said.strip() == str(tmp_path / "out" / "a.png")


def test_a_picture_shows_what_was_done_and_what_from(call, folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("disdiff.commands.edit.save_picture", lambda *a, **k: drawn.append((a, k)))
    save_json(folder / "metrics.json", {"system": "disdiff", "reconstruction": {"inferred_psnr": 99.0}})
    status, _, said = call("photo.png", "--unit", 0, "--toward", "other.png", "--unit", 2, "--by", 1)
    ((_, _, grid, title), columns) = drawn[0]
    assert status == 0 and title == "unit 0: toward other.png; unit 2: +1 std" and grid.shape[1] == 4
    assert columns == {"columns": ["picture", "other.png", "unchanged", "edited"]}
    assert "the run's own images with 99.0 dB; it is unlike the training images" in said


def test_pictures_are_edited_without_the_data_of_the_run(call, folder, tmp_path, monkeypatch):
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"name": "folder", "root": "drawings", "procedural": "auto"}
    path.write_text(yaml.safe_dump(config))
    edit = ("photo.png", "--unit", 0, "--by", 1, "--out", "a.png")
    assert call(*edit)[0] == 0
    assert "drawings is not a folder" in call(*edit[1:])[2]  # a random image needs the data
    (tmp_path / "drawings").mkdir()
    for name in ("photo", "other"):
        (tmp_path / f"{name}.png").rename(tmp_path / "drawings" / f"{name}.png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call(*edit[1:])[0] == 0  # found beside the folder that holds the run
