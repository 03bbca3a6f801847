"""`python main.py` for a system other than DisDiff: the cheapest, in one stage."""

import json

from disdiff.runs.run_folder import load_run

BASE = "configs/beta_vae/shapes3d.yaml"


def test_another_system_leaves_what_the_contract_says_and_comes_back(call, command, tmp_path):
    arguments = [BASE if text.endswith(".yaml") else text for text in command(tmp_path)]
    status, said, errors = call(*arguments)
    assert status == 0, errors
    folder = tmp_path / "beta_vae-shapes3d-smoke-s0"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.json", "log.csv", "codes.npz", "report.html", "stages"}
    assert names >= {"swap.png", "traversal.png", "reconstruction.png", "samples.png"}
    assert not (tmp_path / "_stages").exists()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["system"] == "beta_vae" and list(metrics["stages"]) == ["code"]
    run = load_run(folder)
    assert run.codes()["codes"].shape == (2000, 6, 1) and run.model.num_units == 6
    status, said, _ = call(*arguments)
    assert status == 0 and "loaded from" in said and "complete, nothing to do" in said
