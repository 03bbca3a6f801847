"""The notebook runs from first to last cell on the shipped model, and is committed without outputs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "notebooks" / "tour.ipynb"


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The cells of the notebook after they ran in an empty folder; an error in a cell is raised here."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra test)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra test)")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(TOUR, as_version=4)
    options = {"timeout": 600, "startup_timeout": 600, "kernel_name": "python3"}
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, resources=place, **options).execute()
    return notebook.cells


def test_every_cell_runs_and_the_pictures_are_shown(executed):
    outputs = [output for cell in executed for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # images, a swap, traversals, an edit
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert re.search(r"MIG +0\.\d\d\n.*FactorVAE [01]\.\d{3}, DCI 0\.\d{3}", said)


def test_it_is_committed_without_outputs():
    notebook = json.loads(TOUR.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
