"""The command `disdiff`: its commands, their help, what it says of a wrong one, and what it imports."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from disdiff.commands import app, demo, train
from disdiff.commands.app import COMMANDS
from disdiff.config.places import ROOT
from ldm.files import save_json

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.fixture
def call(capsys):
    """Return a function that calls the command: its exit status, what it said, what it complained of."""

    def run(*words):
        capsys.readouterr()
        try:
            app.main([str(word) for word in words])
        except SystemExit as stop:
            return stop.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(call, words):
    status, said, _ = call(*words)
    assert status == 0 and all(f"\n  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(call, name):
    status, said, _ = call(name, "--help")
    assert status == 0 and said.startswith(f"usage: disdiff {name} ") and f"  disdiff {name} " in said


@pytest.mark.parametrize(("wrong", "right"), [("trian", "train"), ("swp", "swap"), ("evaluat", "evaluate")])
def test_a_misspelt_command_is_told_the_nearest(call, wrong, right):
    assert call(wrong) == (2, "", f"error: there is no command {wrong!r}; did you mean {right}?\n")


def test_a_command_like_no_other_is_told_where_they_are_listed(call):
    assert call("qqq")[2] == "error: there is no command 'qqq'; `disdiff --help` lists the commands\n"


def test_bad_input_ends_in_one_sentence(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, says in (
        (("swap", "nothing"), "nothing is not a run folder"),
        (("show", "--base", "configs/none.yaml"), "cannot read the configuration configs/none.yaml"),
        (("train", "--base", "configs/disdiff/shapes3d.yaml", "code.units=6"), "'code.num_units'"),
        (("train", "--base", "configs/disdiff/shapes3d.yaml", "--fast"), "'--fast' is not an override"),
    ):
        status, _, error = call(*words)
        assert status == 2 and says in error and error.startswith("error: ") and error.count("\n") == 1


def test_the_help_imports_no_command():
    code = "import sys; from disdiff.commands import app; app.main([]); print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (
        "'disdiff.commands.app'" in said and "'torch'" not in said and "'disdiff.commands.swap'" not in said
    )


def test_help_of_training_is_immediate():
    for command in (["-m", "disdiff", "train"], [str(ROOT / "main.py")]):
        process = subprocess.run(
            [sys.executable, "-X", "importtime", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "--base" in process.stdout and "| torch" not in process.stderr


@pytest.mark.parametrize(
    ("words", "base", "overrides", "dry"),
    [
        (["--base", "a.yaml", "seed=1"], ["a.yaml"], ["seed=1"], False),
        (["--base", "a.yaml", "b.yaml", "--dry-run", "seed=1"], ["a.yaml", "b.yaml"], ["seed=1"], True),
        (["preset=smoke", "--base", "a.yaml", "-t", "x.y=2"], ["a.yaml"], ["preset=smoke", "x.y=2"], False),
    ],
)
def test_overrides_stand_anywhere(words, base, overrides, dry):
    arguments = train.make_parser().parse_args(words)
    assert (arguments.base, sorted(arguments.overrides), arguments.dry_run) == (base, sorted(overrides), dry)


def test_show_and_a_dry_run_say_the_same_and_write_nothing(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--base", "configs/disdiff/shapes3d.yaml", "preset=smoke", "trainer.threads=1")
    shown, dry = call("show", *words), call("train", *words, "--dry-run")
    assert shown[0] == dry[0] == 0 and "to train: " in shown[1] and "preset: smoke" in shown[1]
    assert shown[1].split("device")[0] == dry[1].split("device")[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_is_a_command(path):
    text = path.read_text()
    (module,) = [
        module for module, _ in COMMANDS.values() if f"disdiff.commands.{module} import main" in text
    ]
    name = next(name for name, (other, _) in COMMANDS.items() if other == module)
    assert f"`disdiff {name}` as a script" in text and "run_script(main, make_parser())" in text


def test_a_plan_does_not_take_the_stage_of_another_configuration_for_its_own(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "runs" / "disdiff-shapes3d-smoke-s0" / "stages" / "code" / "stage.json"
    save_json(record, {"hash": "of another", "images": 32})
    said = call("show", "--base", "configs/disdiff/shapes3d.yaml", "preset=smoke")[1]
    assert "stages/code is of another configuration, choose another run.name" in said


def test_a_finished_run_is_shown_by_its_scores_and_stages(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said, _ = call("show", "pretrained/shapes3d")
    assert (
        status == 0 and "system disdiff, preset small, seed 26\nprocedural shapes3d: FactorVAE 1.000" in said
    )
    assert "  code: 1,344,000 images in " in said and "swap.png" in said and not list(tmp_path.iterdir())
    assert "has no metrics.json" in call("show", str(tmp_path))[2]
    for words in ([], ["pretrained/shapes3d", "--base", "configs/disdiff/shapes3d.yaml"]):
        assert "give either a run folder or --base FILE" in call("show", *words)[2]


def test_the_demo_shows_what_the_shipped_model_found(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said, _ = call("demo")
    assert status == 0 and "disdiff train --base" in said
    assert re.search(r"unit \d · orientation (1\.00|0\.9\d)", said)
    out = Path("disdiff-demo")
    for name in (*demo.SHOWN, demo.FRESH):
        assert f"{out / name} " in said and (out / name).stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"disdiff-demo"}
    first = Image.open(out / demo.FRESH).tobytes()
    assert call("demo", "--seed", "1", "--out", "other")[0] == 0
    assert Image.open(Path("other") / demo.FRESH).tobytes() != first


def test_completion_is_valid_bash_with_every_command(call):
    pytest.importorskip("shtab", reason="an extra: pip install disdiff[completion]")
    status, said, _ = call("completion", "bash")
    (names,) = re.findall(r"^_shtab_disdiff_subparsers=\((.*)\)$", said, re.MULTILINE)
    assert status == 0 and set(names.replace("'", "").split()) == set(COMMANDS) and "--guidance" in said
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=said, text=True, check=False).returncode == 0


def test_completion_without_shtab_is_told_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert call("completion", "bash")[2] == (
        "error: completion needs the package shtab; run `pip install shtab`\n"
    )
