"""benchmarks/scaling.py on tiny networks: points, what it goes on with, what it says of the time."""

import json

import pytest

WORDS = ["--only", "disdiff-shapes3d", "encdiff-shapes3d"]


@pytest.fixture
def scaling(load_benchmark, noise_images, monkeypatch):
    monkeypatch.setattr(load_benchmark("growth"), "score_code", lambda context, protocol: {"dci": 0.5})
    return load_benchmark("scaling")


@pytest.fixture
def run(scaling, tiny_system, tmp_path, capsys):
    """Return a function that calls the command; it gives what was said."""
    lengths = [f"{stage}.train.images=64" for stage in ("autoencoder", "latent_diffusion")]
    tiny = [*tiny_system, *lengths, "data.num_train=64", "trainer.device=cpu"]

    def call(*words, overrides=()):
        options = [*WORDS, "--set", *tiny, *overrides, "--out", str(tmp_path), *words]
        scaling.main(scaling.make_parser().parse_args(options))
        return capsys.readouterr().out

    return call


def test_curves_get_their_points_in_turn_and_go_on(scaling, run, tmp_path, monkeypatch):
    assert "time known after its first point" in run("--status") and not list(tmp_path.iterdir())
    said = run("--images", "64", "32")
    order = [line.split(": ")[0] for line in said.splitlines() if "(paper)" in line]
    assert order == 2 * ["disdiff-shapes3d", "encdiff-shapes3d"]
    assert said.splitlines()[-1].startswith("all: about 0 s")
    run("--images", "64", "96", "--only", "encdiff-shapes3d")
    written = json.loads((tmp_path / "scaling.json").read_text())
    assert (tmp_path / "scaling.png").stat().st_size > 1000
    images = {name: [p["images"] for p in curve["points"]] for name, curve in written["curves"].items()}
    assert images == {"disdiff-shapes3d": [32, 64], "encdiff-shapes3d": [32, 64, 96]}
    assert written["data"] == "procedural"
    with pytest.raises(scaling.UserError, match="code.num_units differs"):
        run("--images", "96", overrides=["code.num_units=3"])


def test_the_time_left_is_told_by_the_rate_so_far(scaling, monkeypatch, tmp_path):
    points = {"disdiff-shapes3d": [{"images": 100, "seconds": 50.0}], "encdiff-shapes3d": []}
    monkeypatch.setattr(scaling, "load_points", lambda folder: points.get(folder.name, []))
    curves = scaling.list_curves(tmp_path, ["disdiff-shapes3d", "encdiff-shapes3d", "disdiff-dsprites"])
    seconds = scaling.estimate_seconds(curves, 300)
    assert seconds == {"disdiff-shapes3d": 100, "encdiff-shapes3d": None, "disdiff-dsprites": 150}
