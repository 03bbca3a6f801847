"""`python main.py`: what it leaves behind, what it says, how it bears a kill and bad input."""

import json
import time
from dataclasses import asdict

import numpy as np
import pytest
import yaml

CONTRACT = {
    *("config.yaml", "metrics.json", "log.csv", "codes.npz", "report.html", "stages"),
    *("swap.png", "traversal.png", "reconstruction.png", "samples.png"),
}
NAME = "disdiff-shapes3d-smoke-s0"


class TestFinishedRun:
    def test_the_run_folder_holds_what_the_contract_says(self, finished):
        folder = finished[0] / NAME
        assert {path.name for path in folder.iterdir()} >= CONTRACT
        assert not list(finished[0].rglob(".*.part*"))
        for name in ("autoencoder", "latent_diffusion", "code"):
            assert {p.name for p in (folder / "stages" / name).iterdir()} >= {
                "model.safetensors",
                "stage.json",
                "log.csv",
            }
        assert not list(finished[0].rglob("resume.ckpt"))

    def test_the_metrics_are_those_of_the_contract(self, finished):
        metrics = json.loads((finished[0] / NAME / "metrics.json").read_text())
        assert metrics["dataset"] == {"name": "shapes3d", "procedural": True, "num_images": 480_000}
        assert (metrics["system"], metrics["preset"], metrics["seed"]) == ("disdiff", "smoke", 0)
        scores = metrics["scores"]["fast"]
        assert 0 <= scores["factor_vae"]["eval_accuracy"] <= 1
        assert 0 <= scores["dci"]["disentanglement"] <= 1 and "informativeness" in scores["dci"]
        assert 0 <= scores["mig"]["score"] <= 1
        assert metrics["reconstruction"]["psnr"] > 0
        steps = {name: stage["steps"] for name, stage in metrics["stages"].items()}
        assert steps == {"autoencoder": 20, "latent_diffusion": 40, "code": 20}
        assert metrics["seconds_total"] > sum(stage["seconds"] for stage in metrics["stages"].values())
        assert {"device", "versions", "commit", "editing"} <= metrics.keys()

    def test_the_codes_are_those_of_the_contract(self, finished):
        with np.load(finished[0] / NAME / "codes.npz", allow_pickle=False) as file:
            assert file["codes"].shape == (2000, 6, 1) and file["factors"].shape == (2000, 6)
            assert file["factor_names"].tolist()[:2] == ["floor hue", "wall hue"]

    def test_the_first_lines_say_what_and_how_large_and_how_long(self, finished):
        first = finished[1].split("autoencoder: 20 steps")[0]
        for text in (
            "preset smoke",
            "preset=small|smoke|paper",
            "PROCEDURAL",
            "M parameters",
            "will take about",
        ):
            assert text in first

    def test_the_saved_configuration_is_complete_and_can_be_run_from(self, finished):
        from disdiff.config.schema import load_config, merge, read_yaml

        path = finished[0] / NAME / "config.yaml"
        assert yaml.safe_load(path.read_text()) == asdict(merge([read_yaml(path)]))
        assert load_config([path]).code == merge([read_yaml(path)]).code

    def test_the_same_command_again_loads_everything(self, finished, call, command, read_weights):
        before = read_weights(finished[0] / NAME)
        times = {path: path.stat().st_mtime_ns for path in finished[0].rglob("model.safetensors")}
        status, said, _ = call(*command(finished[0]))
        assert status == 0
        assert said.count("loaded from") == 3 and "trained in" not in said
        assert read_weights(finished[0] / NAME) == before
        assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("model.safetensors")} == times

    def test_a_run_folder_of_another_configuration_is_refused(self, finished, call, command):
        status, _, errors = call(*command(finished[0], f"run.name={NAME}", "code.num_units=5"))
        assert status == 2 and errors.count("\n") == 1
        assert "belongs to another configuration (code.num_units differs)" in errors

    def test_without_t_it_says_what_is_trained_already(self, finished, call, command):
        status, said, _ = call(*command(finished[0], train=False))
        assert status == 0 and said.count(", trained on ") == 3 and "will take about" not in said


def test_without_t_nothing_is_written(call, command, tmp_path):
    status, said, _ = call(*command(tmp_path / "runs", train=False))
    assert status == 0 and not list(tmp_path.iterdir())
    assert yaml.safe_load(said.split("\nsystem disdiff, preset")[0])["code"]["num_units"] == 6
    for text in (
        "autoencoder",
        "latent_diffusion",
        "code",
        "M parameters, to train: 20 steps of 16",
        "about",
    ):
        assert text in said


def test_a_reader_that_has_seen_enough_is_no_error(start, command, tmp_path):
    with start(*command(tmp_path, train=False)) as process:
        process.stdout.close()
        assert not process.stderr.read()


KILLS = {
    "autoencoder": "_stages/autoencoder-*/resume.ckpt",
    "encoding": "_stages/latents-*/cache.json",
    "latent_diffusion": "_stages/latent_diffusion-*/resume.ckpt",
    "code": f"{NAME}/stages/code/resume.ckpt",
    "results": f"{NAME}/codes.npz",
    "scores": f"{NAME}/scores.json",
}
FREQUENT = [f"{stage}.train.checkpoint_seconds=0" for stage in ("autoencoder", "latent_diffusion", "code")]


def kill_when(process, root, pattern):
    """Send SIGKILL once a file of that pattern is there and training went on for another moment."""
    while not list(root.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    time.sleep(0.1)
    process.kill()
    process.communicate()
    assert process.returncode == -9


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(["latent_diffusion"], id="once"),
        pytest.param(list(KILLS), id="everywhere", marks=pytest.mark.slow),
        pytest.param(["autoencoder"] * 2 + ["code"] * 2, id="again", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(
    finished, call, command, start, read_weights, tmp_path, moments
):
    for moment in moments:
        kill_when(start(*command(tmp_path, *FREQUENT)), tmp_path, KILLS[moment])
    status, said, errors = call(*command(tmp_path, *FREQUENT))
    assert status == 0, errors
    assert read_weights(tmp_path / NAME) == read_weights(finished[0] / NAME)
    ours, theirs = (
        json.loads((root / NAME / "metrics.json").read_text()) for root in (tmp_path, finished[0])
    )
    assert ours["scores"] == theirs["scores"]


class TestBadInput:
    def test_a_misspelt_key_is_one_line_and_exit_status_2(self, call, command, tmp_path):
        status, said, errors = call(*command(tmp_path / "runs", "code.num_unit=3"))
        assert status == 2 and not said
        assert errors == "error: unknown configuration key 'code.num_unit'; did you mean 'code.num_units'?\n"
        assert not list(tmp_path.iterdir())

    def test_help_teaches_by_example_and_at_once(self, start):
        process = start("--help")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert said.count("python main.py --base configs/disdiff/shapes3d.yaml") >= 4
        assert all(
            word in said for word in ("examples:", "preset=smoke", "seed=1", "resume", "small", "paper")
        )

    @pytest.mark.parametrize("name", ["seed=1/config.yaml", "a=b.yaml", "lr=1e-3, x=2/my config.yaml"])
    def test_a_file_is_a_file_whatever_its_path(self, call, tmp_path, name, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("bases: [shapes3d]\nrun: {name: 007}\ndata: {procedural: always}\n")
        for given in (str(path), f"~/{name}"):
            status, said, errors = call("--base", given, "preset=smoke", "seed=3", "system=autoencoder")
            assert status == 0, errors
            assert "  name: '007'" in said and "seed: 3" in said

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--base", "absent.yaml"], "absent.yaml"),
            (["--base", "configs/disdiff/shapes3d.yaml", "seed=one"], "seed"),
            (["--base", "configs/disdiff/shapes3d.yaml", "--epochs=3"], "--epochs=3"),
            (["--base", "configs/disdiff/shapes3d.yaml", "-t", "seed"], "seed"),
            (
                ["--base", "configs/disdiff/shapes3d.yaml", "data.procedural=never", "data.root=nowhere"],
                "nowhere",
            ),
            (["--base", "configs/disdiff/shapes3d.yaml", "trainer.device=tpu"], "tpu"),
            (["--base", "configs/disdiff/shapes3d.yaml", "-t", "trainer.logger=tb"], "tensorboard, wandb"),
            (
                ["--base", "configs/disdiff/shapes3d.yaml", "data.root=/absent/2024_06_01"],
                "/absent/2024_06_01",
            ),
            (["--base", "configs/disdiff/shapes3d.yaml", "data.root=~/absent #1"], "#1 is not a folder"),
            (
                ["--base", "configs/disdiff/dsprites.yaml", "data.root=nowhere", "-t"],
                "data.procedural=always",
            ),
        ],
    )
    def test_one_sentence_names_it(self, call, arguments, named):
        status, _, errors = call(*arguments)
        assert status == 2
        assert errors.startswith("error: ") and errors.count("\n") == 1 and named in errors

    def test_a_run_folder_that_cannot_be_written(self, call, command, tmp_path):
        (tmp_path / "file").write_text("not a folder")
        status, _, errors = call(*command(tmp_path / "file"))
        assert status == 2
        assert (
            errors.splitlines()[-1].startswith(f"error: cannot write {tmp_path / 'file'}")
            and "Traceback" not in errors
        )

    @pytest.mark.parametrize("size", [400_000, 50_000])
    def test_a_disk_that_fills_stops_with_one_sentence_and_leaves_no_rubbish(
        self, call, command, no_file_larger_than, tmp_path, size
    ):
        with no_file_larger_than(size):
            status, _, errors = call(*command(tmp_path, *FREQUENT))
        assert status == 2, errors
        last = errors.splitlines()[-1]
        assert last.startswith("error: cannot write") and "Traceback" not in errors
        assert not list(tmp_path.rglob(".*.part*"))

    def test_a_truncated_data_file(self, call, command, tmp_path):
        (tmp_path / "3dshapes.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
        status, _, errors = call(*command(tmp_path / "runs", f"data.root={tmp_path}"))
        assert status == 2 and errors.count("\n") == 1 and "3dshapes.h5" in errors
