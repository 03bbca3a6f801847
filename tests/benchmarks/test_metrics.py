"""benchmarks/metrics.py on a few rows: what it times, prints and writes."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "metrics.py"


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs the benchmark: exit status, what it said, what it complained of."""
    spec = importlib.util.spec_from_file_location("benchmark_metrics", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "NUM_ROWS", 2_000)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["metrics", *map(str, arguments)])
        try:
            script.run_script(script.main, script.make_parser())
        except SystemExit as error:
            return error.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def test_every_metric_is_timed_and_written_with_machine_and_versions(call, tmp_path):
    out = tmp_path / "b.json"
    status, said, _ = call("--data", "shapes3d", "--units", 2, "--protocols", "fast", "--out", out)
    assert status == 0 and "shapes3d N=2, protocol fast" in said and "(limit 20 s)" in said
    written = json.loads(out.read_text())
    assert {"date", "machine", "versions", "repeats", "seed"} <= set(written)
    result = written["results"]["shapes3d N=2"]["fast"]
    assert set(result["seconds"]) == set(
        "factor_vae beta_vae mig med modularity irs unsupervised sap explicitness infomec dci".split()
    )
    assert result["total"] == pytest.approx(sum(result["seconds"].values()))
    assert result["limit"] == 20 and result["within"] is (result["total"] <= 20)


def test_codes_of_one_s_own_and_some_metrics_have_no_limit(call, tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "run" / "codes.npz"
    path.parent.mkdir()
    np.savez(path, codes=random.normal(size=(2_000, 3, 2)), factors=random.integers(0, 3, (2_000, 2)))
    chosen = ("--protocols", "fast", "--metrics", "mig", "sap", "--repeats", 2, "--out", tmp_path / "b.json")
    status, said, _ = call("--codes", path, *chosen)
    assert status == 0 and "run N=3" in said and "limit" not in said
    result = json.loads((tmp_path / "b.json").read_text())["results"]["run N=3"]["fast"]
    assert list(result["seconds"]) == ["mig", "sap"] and result["limit"] is None


def test_an_unknown_metric_is_one_sentence(call, tmp_path):
    status, _, complained = call("--metrics", "mgi", "--protocols", "fast", "--out", tmp_path / "b.json")
    assert status == 2 and "--metrics=mgi is unknown; choose one of factor_vae" in complained
