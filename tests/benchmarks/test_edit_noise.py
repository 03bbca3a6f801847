"""The benchmark of right against kept writes a row and a point for every share of new noise."""

import json
from pathlib import Path

import pytest

from disdiff.commands.terminal import run_script

SHIPPED = Path(__file__).resolve().parents[2] / "pretrained" / "shapes3d"


def test_every_share_is_measured_and_drawn(load_benchmark, tmp_path, monkeypatch):
    benchmark = load_benchmark("edit_noise")

    def compute_editing(*arguments, new_noise, **options):
        return {"success_mean": new_noise, "kept_mean": 1 - new_noise, "kept_min": 0.0, "success": {}}

    monkeypatch.setattr(benchmark, "compute_editing", compute_editing)
    words = [str(SHIPPED), "--shares", "0", "0.5", "--out", str(tmp_path / "noise.json")]
    benchmark.main(benchmark.make_parser().parse_args(words))
    shares = json.loads((tmp_path / "noise.json").read_text())["shares"]
    assert {share: row["kept_mean"] for share, row in shares.items()} == {"0": 1.0, "0.5": 0.5}
    assert (tmp_path / "noise.png").stat().st_size > 1000


def test_a_share_above_one_is_refused(load_benchmark):
    benchmark = load_benchmark("edit_noise")
    with pytest.raises(SystemExit) as stop:
        run_script(benchmark.main, benchmark.make_parser(), [str(SHIPPED), "--shares", "2"])
    assert stop.value.code == 2
