import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"


def call(*arguments):
    result = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr.strip().splitlines()[-1:] or [""]


@pytest.fixture
def codes(tmp_path):
    factors = np.random.RandomState(0).randint(0, 4, (2_500, 2))
    codes = factors + 0.01 * np.random.RandomState(1).randn(2_500, 2)
    np.savez(tmp_path / "codes.npz", codes=codes, factors=factors)
    return tmp_path / "codes.npz"


def test_identity_codes_score_almost_one_over_seeds(codes, tmp_path):
    out = tmp_path / "s.json"
    status, said, _ = call("--codes", codes, "--protocol", "fast", "--seeds", "0,1", "--out", out)
    assert status == 0 and "+-" in said and "protocol fast, 2500 codes" in said
    results = json.loads(out.read_text())
    assert results["protocol"] == "fast" and set(results["seeds"]) == {"0", "1"}
    assert all(scores["factor_vae"]["eval_accuracy"] == 1 for scores in results["seeds"].values())
    assert all(scores["dci"]["disentanglement"] > 0.95 for scores in results["seeds"].values())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "name a run folder or --codes"),
        (["--codes", "absent.npz"], "absent.npz"),
        (["--codes", "CODES", "--seeds", "one"], "--seeds one"),
        (["--codes", "CODES", "--protocol", "paper"], "15000"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(codes, arguments, named):
    status, _, (last,) = call(*[codes if argument == "CODES" else argument for argument in arguments])
    assert status == 2 and last.startswith("error: ") and named in last
