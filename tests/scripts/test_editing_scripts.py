import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from disdiff.runs.run_folder import load_run
from ldm.data.procedural import ProceduralShapes3D

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def call(named_run, load_script, call_script):
    """Return a function that runs a script on the run folder: the path it prints, or status and error."""

    def run(name, *arguments):
        status, said, error = call_script(load_script(name), named_run, "--device", "cpu", *arguments)
        return (status, error) if status else Path(said.strip())

    return run


def height(path):
    return Image.open(path).height


def test_swap_shows_a_row_per_unit_and_one_for_all_together(call):
    every, some = call("swap"), call("swap", "--units", "0,2", "--out", "some.png")
    assert every == Path("edits/tiny-swap.png") and height(every) == height(some)  # 3 units; 2 and both
    assert height(call("swap", "--units", "1", "--out", "one.png")) == height(every) - 2 * 132


def test_a_factor_names_all_of_its_units(call, named_run):
    table = load_run(named_run).unit_table()
    assert len(table.factor_names) == 6
    for name in table.factor_names[:2]:
        numbers = ",".join(map(str, table.find(name)))
        by_name, by_number = (call("traverse", "--units", each) for each in (name, numbers))
        assert by_name.read_bytes() == by_number.read_bytes()
    one, both = (call("swap", "--units", each, "--out", f"{each}.png") for each in (name, f"{name},0"))
    assert height(both) == height(one) + 2 * 132


def test_no_picture_takes_the_place_of_an_earlier_one(call, tmp_path):
    first = call("swap", "--units", "1")
    before = first.read_bytes()
    assert call("swap", "--units", "2") == Path("edits/tiny-swap-2.png") and first.read_bytes() == before
    (tmp_path / "kept").mkdir()
    assert call("sample", "--num", 1, "--out", "kept") == Path("kept/tiny-samples.png")
    status, error = call("swap", "--out", "new/swap")
    assert status == 2 and "new/swap has no picture suffix; use .png" in error and "swapping" not in error


def test_swap_of_named_images_and_of_files(call, tmp_path):
    by_index = call("swap", "--source", 5, "--target", 400_000, "--out", "index.png")
    for name, index in (("a", 5), ("b", 400_000)):
        image = ProceduralShapes3D().images(torch.tensor([index]))[0]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    by_file = call("swap", "--images", "a.png", "b.png", "--out", "file.png")
    assert by_index.read_bytes() == by_file.read_bytes()


def test_a_swap_starts_from_the_share_of_new_noise_asked_for(call):
    files = {
        noise: call("swap", "--noise", noise, "--steps", 3, "--out", f"{noise}.png").read_bytes()
        for noise in ("inferred", "0", "0.5", "1", "random")
    }
    assert files["inferred"] == files["0"] and files["random"] == files["1"]
    assert len(set(files.values())) == 3


def test_swaps_follow_the_guidance(call):
    files = {each: call("swap", "--guidance", each, "--out", f"{each}.png").read_bytes() for each in "012"}
    own = call("swap").read_bytes()
    assert files["1"] == own and len(set(files.values())) == 3


def test_traversal_has_the_columns_and_units_asked_for(call):
    wide = call("traverse")
    narrow = call("traverse", "--units", "2", "--columns", 3, "--reach", 1, "--image", 7, "--out", "n.png")
    assert wide == Path("edits/tiny-traversal.png")
    assert Image.open(wide).width - Image.open(narrow).width == pytest.approx(6 * 132, abs=40)
    assert height(narrow) == height(wide) - 2 * 132


def test_samples_follow_the_seed_and_the_units(call):
    first, again, other, some = (
        call("sample", "--num", 3, "--out", f"{i}.png", *extra).read_bytes()
        for i, extra in enumerate([[], [], ["--seed", 1], ["--units", "0"]])
    )
    assert first == again and first != other and first != some


def test_report_is_written_and_pictures_drawn_anew(call, named_run):
    assert call("report") == named_run / "report.html"
    assert "swap.png" not in [path.name for path in named_run.iterdir()]
    assert call("report", "--pictures", "--out", "r.html") == Path("r.html")
    names = {path.name for path in named_run.glob("*.png")}
    assert names == {"swap.png", "traversal.png", "reconstruction.png", "samples.png", "fields.png"}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["swap", "--units", "0,3"], "there is no unit 3"),
        (["swap", "--source", "1"], "go together"),
        (["swap", "--source", "1", "--target", "480000"], "images 0 to 479999"),
        (["swap", "--images", "missing.png", "b.png"], "cannot read the picture missing.png"),
        (["swap", "--steps", "5000"], "cannot sample in 5000 steps"),
        (["traverse", "--image", "config.txt"], "cannot read the picture config.txt"),
        (["traverse", "--columns", "1"], "--columns: 1 is out of range; it must be at least 2"),
        (["sample", "--num", "0"], "--num: 0 is out of range; it must be at least 1"),
        (["sample", "--guidance", "-1"], "sampler.guidance=-1.0 is out of range"),
        (["sample", "--guidance", "inf"], "sampler.guidance=inf is out of range"),
        (["swap", "--guidance", "nan"], "sampler.guidance=nan is out of range"),
        (["sample", "--steps", "0"], "--steps: 0 is out of range; it must be at least 1"),
        (["swap", "--steps", "-3"], "--steps: -3 is out of range"),
        (["traverse", "--steps", "2.5"], "'2.5' is not a whole number"),
        (["traverse", "--reach", "nan"], "--reach: nan is out of range"),
        (["traverse", "--reach", "inf"], "--reach: inf is out of range"),
        (["sample", "--seed", "-1"], "at least 0 and at most 4294967295"),
        (["sample", "--seed", str(2**32)], "at most 4294967295 and at least 0"),
        (["swap", "--seed", str(2**64)], "at most 4294967295 and at least 0"),
        (["sample", "--units", "a"], "no unit has the name 'a'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(call, tmp_path, command, says):
    (tmp_path / "config.txt").write_text("no picture")
    code, error = call(*command)
    assert code == 2 and says in error and error.count("\n") == 1 and "Traceback" not in error


def test_codes_that_are_missing_are_asked_for(call, named_run):
    (named_run / "codes.npz").unlink()
    assert "no codes.npz" in call("sample")[1]
    assert call("swap", "--units", "1").exists()  # units have numbers for names


@pytest.mark.parametrize("name", ["swap", "traverse", "sample", "report"])
def test_scripts_explain_themselves_and_stop_at_a_folder_that_is_no_run(name, tmp_path, monkeypatch, capsys):
    for arguments, code in (["--help"], 0), ([str(tmp_path)], 2):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        assert stop.value.code == code
    printed = capsys.readouterr()
    assert f"disdiff {name} pretrained/shapes3d" in printed.out
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
