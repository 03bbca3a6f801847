import numpy as np
import pytest
import torch
from PIL import Image

from disdiff.report import album
from disdiff.report.album import PARTS, make_pictures
from disdiff.report.sliders import load_frames
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig

SAMPLER = SamplerConfig("ddim", 2, 0.0)


@pytest.fixture
def codes(model, halves):
    codes = model.encode(to_float(halves.images(torch.arange(240)))).numpy()
    return {"codes": codes, "factor_names": np.array(halves.factor_space.names)}


@pytest.mark.parametrize("with_scores", [True, False])
def test_the_main_job_leaves_every_picture(model, halves, codes, tmp_path, with_scores):
    scores = {"dci": {"importance": np.eye(3)[:, :2].tolist()}} if with_scores else None
    told = []
    make_pictures(
        model,
        halves,
        torch.arange(240),
        codes,
        scores,
        tmp_path,
        SAMPLER,
        0,
        lambda *args: told.append(args),
    )
    names = {name for part in PARTS.values() for name in part}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert {name for name, _ in told} == {f"{part}.png" for part in PARTS}
    for part in PARTS:
        assert (tmp_path / f"{part}.png").stat().st_size < 1_500_000
        assert min(Image.open(tmp_path / f"{part}.png").size) > 200
    frames = load_frames(tmp_path)
    assert sorted(frames.units) == [0, 1, 2] and len(frames.amounts) == 13 and frames.num_images == 2


def test_swaps_are_of_factors_with_scores_and_of_units_without(model, halves, codes, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        album, "save_grid", lambda path, grid, title, subtitle, rows, columns: saved.append(rows)
    )
    importance = [[0.6, 0.1], [0.1, 0.9], [0.7, 0.0]]
    for scores in ({"dci": {"importance": importance}}, None):
        make_pictures(model, halves, torch.arange(240), codes, scores, tmp_path, SAMPLER, 0, parts=["swap"])
    assert saved[0] == ["source", "target", "brightness · units 2, 0", "scale · unit 1"]
    assert saved[1] == ["source", "target", "unit 0", "unit 1", "unit 2"]


def test_parts_can_be_drawn_by_themselves(model, halves, codes, tmp_path):
    arguments = (model, halves, torch.arange(240), codes, None)
    everything, some = tmp_path / "a/run", tmp_path / "b/run"
    make_pictures(*arguments, everything, SAMPLER, 3)
    make_pictures(*arguments, some, SAMPLER, 3, parts=["fields"])
    assert [path.name for path in some.iterdir()] == ["fields.png"]
    assert (some / "fields.png").read_bytes() == (everything / "fields.png").read_bytes()


def test_units_that_hardly_vary_have_no_row(model, halves, codes, tmp_path, monkeypatch):
    rows = {}
    monkeypatch.setattr(
        album,
        "save_grid",
        lambda path, grid, title, subtitle, names=None, columns=None: rows.update({path.stem: names}),
    )
    codes["codes"] = codes["codes"] * np.array([1.0, 0.01, 3.0], np.float32)[:, None]
    make_pictures(model, halves, torch.arange(240), codes, None, tmp_path, SAMPLER, 0)
    assert rows["swap"] == ["source", "target", "unit 0", "unit 2"]
    assert not any("unit 1" in label for label in rows["traversal"] + rows["fields"])
    assert load_frames(tmp_path).units == [0, 2]


def test_a_system_of_hundreds_of_units_shows_those_that_vary_most(
    model, halves, codes, tmp_path, monkeypatch
):
    monkeypatch.setattr("disdiff.editing.unit_names.MAX_ROWS", 2)
    widths, titles = [], []
    save = album.save_grid

    def record(path, grid, title, subtitle, rows=None, columns=None):
        widths.append((path.stem, grid.shape[0]))
        titles.append(subtitle)
        save(path, grid, title, subtitle, rows, columns)

    monkeypatch.setattr(album, "save_grid", record)
    codes["codes"] = codes["codes"] * np.array([1.0, 0.5, 3.0], np.float32)[:, None]
    make_pictures(model, halves, torch.arange(240), codes, None, tmp_path, SAMPLER, 0)
    assert widths[:3] == [("swap", 2 + 2), ("traversal", 2), ("fields", 1 + 2)]
    assert all("the 2 of 3 units with the highest variance" in title for title in titles[:3])
    assert not any("units of" in title for title in titles[3:])
    by_variance = codes["codes"].var(axis=0).sum(axis=1).argsort()[::-1][:2]
    assert load_frames(tmp_path).units == by_variance.tolist()
