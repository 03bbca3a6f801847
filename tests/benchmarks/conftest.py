"""Benchmarks are no package: they find each other beside themselves, as when they are run."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch):
    """Return a function that imports a benchmark by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in {path.stem for path in BENCHMARKS.glob("*.py")} & sys.modules.keys():
        if Path(getattr(sys.modules[name], "__file__", "") or "").parent == BENCHMARKS:
            del sys.modules[name]
