from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from disdiff.commands.common import choose_path, data_path, label_run, number_path
from disdiff.commands.terminal import add_settings_hint, interruptible, run_script, word_error
from ldm.errors import UserError


def test_no_two_run_folders_share_a_name(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folders = ["runs/x", "a/x", "b/x", "runs/a/x", "x", ".", "../x", "../other/x", str(tmp_path / "a" / "x")]
    labels = [label_run(Path(folder)) for folder in folders]
    assert len(set(labels)) == len(folders)
    assert labels[:3] == ["x", "a/x", "b/x"]
    assert label_run(Path("runs/../a/x")) == "a/x" and label_run(here / "runs" / "x") == "x"
    assert choose_path(Namespace(out=None, run=Path("a/x")), "swap.png") == Path("edits/a/x-swap.png")
    assert choose_path(Namespace(out=Path("o.png"), run=Path("a/x")), "swap.png") == Path("o.png")


def test_a_path_that_exists_gets_the_next_number(tmp_path):
    for name in ("a.png", "a-2.png", "a-3.png"):
        path = number_path(tmp_path / "a.png")
        assert path.name == name
        path.touch()


def test_an_interrupt_ends_with_a_line_and_with_a_traceback_only_for_debug(capsys):
    def work(arguments):
        raise KeyboardInterrupt

    def train(arguments):
        with interruptible():
            raise KeyboardInterrupt

    continues = "stopped; the same command continues from the last checkpoint"
    for main, says in ((work, "stopped"), (train, continues)):
        with pytest.raises(SystemExit) as ended:
            run_script(main, ArgumentParser(), [])
        assert ended.value.code == 130 and capsys.readouterr().err == f"{says}\n"
    with pytest.raises(KeyboardInterrupt):
        run_script(work, ArgumentParser(), ["--debug"])


def test_numbers_never_go_where_their_picture_goes():
    assert data_path(Path("edits/gap.png"), ".json") == Path("edits/gap.json")
    for suffix in (".json", ".npz"):
        with pytest.raises(UserError, match="ends in .png"):
            data_path(Path(f"x{suffix}"), suffix)


@pytest.mark.parametrize(
    "message",
    [
        "leave such pictures out with data.corrupt=skip",
        "or set weights.allow_download=true",
        "name one with data.root=FOLDER",
    ],
)
def test_advice_names_where_its_reader_sets_it(message):
    told = "(here such settings are read from config.yaml in the run folder)"
    assert add_settings_hint(message) == f"{message} {told}"
    assert add_settings_hint(message, "--set").endswith("read from --set)")
    trained = f"on the command line of `disdiff train`: {message}"
    for clear in ("--set data.root=FOLDER", trained, "no advice"):
        assert add_settings_hint(clear) == clear


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"root": None, "corrupt": None}, "no folder; use --root FOLDER, or --corrupt skip"),
        ({"root": None}, "use --root FOLDER, or data.corrupt=skip (here such settings are read from config"),
        ({"root": None, "set": []}, "use data.root=FOLDER, or data.corrupt=skip"),
        ({"overrides": []}, "no folder; use data.root=FOLDER, or data.corrupt=skip"),
    ],
)
def test_advice_is_in_the_options_of_the_command(options, says):
    assert says in word_error("no folder; use data.root=FOLDER, or data.corrupt=skip", Namespace(**options))
