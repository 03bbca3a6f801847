"""`disdiff import` from the command line, and what can be done with what it writes."""

import os
import pickle

import pytest

from disdiff.commands import app
from disdiff.config.schema import load_config
from disdiff.runs.context import open_context
from disdiff.runs.run_folder import load_run


@pytest.fixture
def call(tmp_path, capsys, noise_images):
    """Return a function that calls the command: what it printed; raises SystemExit as it would."""

    def run(*arguments, out="runs/released"):
        words = [*arguments, "--data", "shapes3d", "--out", tmp_path / out]
        app.main(["import", *map(str, words)])
        return capsys.readouterr().out

    return run


def test_an_import_is_told_and_can_be_worked_with(call, released, save_checkpoint, tmp_path, capsys):
    path = save_checkpoint("dis.ckpt", released.model("vq", units=(3, 4)).state_dict())
    said = call(path, "--kind", "disdiff")
    assert "code: " in said and "tensors placed" in said and "assumed: attention of 8 heads" in said
    assert "on procedural shapes3d: psnr" in said
    folder = tmp_path / "runs" / "released"
    assert load_run(folder).model.num_units == 3
    again = open_context(load_config([folder / "config.yaml"]))
    assert all(stage.trained for stage in again.stages.values())
    mine = open_context(load_config([folder / "config.yaml"], ["run.name=mine", "code.num_units=4"]))
    trained = {name: stage.trained for name, stage in mine.stages.items()}
    assert trained == {"autoencoder": True, "latent_diffusion": True, "code": False}
    with pytest.raises(SystemExit) as stop:
        call(path, "--kind", "disdiff")
    assert stop.value.code == 2 and "not empty" in capsys.readouterr().err


def test_what_was_replaced_is_said_in_one_line(call, released, save_checkpoint):
    model, below = released.model("vq", units=(3, 4)), released.model("vq")
    paths = [save_checkpoint("ldm.ckpt", below.state_dict()), save_checkpoint("dis.ckpt", model.state_dict())]
    said = call(*paths, "--kind", "disdiff").splitlines()
    [line] = [line for line in said if "replaced" in line and line.startswith("latent_diffusion")]
    placed = [line for line in said if line.startswith("latent_diffusion:") and "placed" in line]
    assert "of ldm.ckpt replaced by those of dis.ckpt" in line
    assert line.split()[1] == placed[0].split()[1]  # as many as were placed


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (pickle.dumps(Evil()), [], "no known format"),
        (b"no checkpoint", [], "cannot be read as weights"),
        (None, [], "missing.ckpt"),
        (b"", ["--heads", "0"], "--heads: 0 is out of range; it must be at least 1"),
    ],
)
def test_bad_files_are_one_sentence_and_leave_nothing(
    call, tmp_path, capsys, monkeypatch, content, options, says
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("missing.ckpt" if content is None else "x.ckpt")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        call(path, "--kind", "ldm", *options)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count("\n") == 1
    assert not (tmp_path / "evil").exists() and not (tmp_path / "runs").exists()
