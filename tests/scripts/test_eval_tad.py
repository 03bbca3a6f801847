import json

import numpy as np
import pytest

from disdiff.metrics.tad import compute_tad, compute_tad_binarised, compute_tad_eleven_thresholds

ROWS = 1_500  # of the protocol `fast`


@pytest.fixture
def call(load_script, call_script):
    """Return a function that runs the script: (exit status, what it said, last line of the errors)."""
    script = load_script("eval_tad")

    def run(*arguments):
        status, said, complained = call_script(script, *arguments)
        return status, said, complained.strip().splitlines()[-1:]

    return run


@pytest.fixture
def attributes():
    return (np.random.default_rng(0).random((2_000, 3)) < [0.5, 0.3, 0.4]).astype(np.int64)


@pytest.fixture
def codes(attributes):
    codes = np.random.default_rng(1).normal(size=(2_000, 4))
    codes[:, :2] += 5.0 * attributes[:, :2]
    return codes


@pytest.fixture
def celeba(tmp_path, codes, attributes):
    names = np.array(["Smiling", "Male", "Young"])
    np.savez(tmp_path / "codes.npz", codes=codes, attributes=attributes, attribute_names=names)
    return tmp_path / "codes.npz"


def test_attributes_give_both_forms_and_the_probe_over_seeds(call, celeba, codes, attributes, tmp_path):
    out = tmp_path / "tad.json"
    status, said, _ = call("--codes", celeba, "--protocol", "fast", "--seeds", "0,1", "--out", out)
    assert (
        status == 0
        and "captured      Smiling, Male\n" in said
        and "+-" in said
        and "width 4 (scalar)" in said
    )
    written = json.loads(out.read_text())
    assert set(written["seeds"]["0"]) == {"tad", "tad_eleven_thresholds", "latent_quality"}
    assert written["protocol"] == "fast"
    expected = [compute_tad(codes, attributes, seed=seed, num_rows=ROWS) for seed in (0, 1)]
    assert written["seeds"]["1"]["tad"] == expected[1]
    summary = written["summary"]["tad"]
    assert summary["score"] == pytest.approx(np.mean([result["score"] for result in expected]))
    assert summary["score_std"] == pytest.approx(np.std([result["score"] for result in expected]))
    assert summary["num_captured"] == 2
    coarse = compute_tad_eleven_thresholds(codes, attributes)
    assert written["summary"]["tad_eleven_thresholds"]["score"] == pytest.approx(coarse["score"])
    assert 0.8 < written["summary"]["latent_quality"]["auroc"] < 1


def test_factors_give_the_binarised_form_under_its_own_name_only(call, tmp_path):
    factors = np.random.default_rng(0).integers(0, (2, 3), (2_000, 2))
    codes = (
        np.stack([factors, 0.1 * factors + 1], axis=2)
        + np.random.default_rng(1).normal(size=(2_000, 2, 2)) / 99
    )
    run = tmp_path / "run"
    run.mkdir()
    np.savez(run / "codes.npz", codes=codes, factors=factors, factor_names=np.array(["hue", "shape"]))
    status, said, _ = call(run, "--protocol", "fast", "--out", tmp_path / "tad.json")
    assert status == 0 and "captured      hue=1, shape=0, shape=2\n" in said
    written = json.loads((tmp_path / "tad.json").read_text())
    assert set(written["summary"]) == {"tad_binarised", "tad_binarised_pca1", "latent_quality"}
    expected = compute_tad_binarised(codes, factors, seed=0, num_rows=ROWS, mapping="pca1")
    assert written["seeds"]["0"]["tad_binarised_pca1"] == expected
    assert "accuracy" in written["summary"]["latent_quality"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either a run folder or --codes FILE"),
        (["--codes", "absent.npz"], "cannot read codes from absent.npz"),
        (["--codes", "CODES", "--seeds", "one"], "--seeds one"),
        (["--codes", "CODES", "--seeds", "0,-1"], "--seeds 0,-1"),
        (["--codes", "CODES"], "there are 2000 codes but 10000 are needed"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(call, celeba, arguments, says):
    status, _, (error,) = call(*[celeba if argument == "CODES" else argument for argument in arguments])
    assert status == 2 and error.startswith("error: ") and says in error


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"factors": None}, "must hold the array 'codes' and an array 'attributes' or 'factors'"),
        ({"attributes": np.full((2_000, 3), 2)}, "attributes must be 0 or 1"),
        ({"attributes": np.zeros((1_999, 3), int)}, "codes have 2000 rows but"),
    ],
)
def test_bad_arrays_are_named(call, tmp_path, codes, arrays, says):
    path = tmp_path / "bad.npz"
    np.savez(path, codes=codes, **{name: array for name, array in arrays.items() if array is not None})
    status, _, (error,) = call("--codes", path, "--protocol", "fast")
    assert status == 2 and says in error


@pytest.mark.parametrize("dtype", [float, np.float32, bool])
def test_attributes_of_any_type_are_scored(call, tmp_path, codes, attributes, dtype):
    np.savez(tmp_path / "codes.npz", codes=codes, attributes=attributes.astype(dtype))
    status, _, error = call(
        "--codes", tmp_path / "codes.npz", "--protocol", "fast", "--out", tmp_path / "tad.json"
    )
    assert status == 0, error
    written = json.loads((tmp_path / "tad.json").read_text())
    assert written["seeds"]["0"]["tad"] == compute_tad(codes, attributes, num_rows=ROWS)


@pytest.mark.parametrize("num", [2_000, 777, 5])
def test_another_number_of_rows_is_taken_and_named(call, celeba, tmp_path, codes, attributes, num):
    out = tmp_path / "tad.json"
    status, said, _ = call("--codes", celeba, "--num", num, "--out", out)
    assert status == 0 and f"protocol paper, but {num} of its codes" in said
    written = json.loads(out.read_text())
    assert written["num_rows"] == num
    tad = written["seeds"]["0"]["tad"]
    assert tad["sizes"] == {"rows": num} and tad == compute_tad(codes, attributes, num_rows=num)
    status, _, (error,) = call("--codes", celeba)
    assert status == 2 and "there are 2000 codes but 10000 are needed" in error and "--num 2000" in error


@pytest.mark.parametrize("num", [0, -5, 4, 2_001])
def test_numbers_of_rows_that_cannot_be_are_named(call, celeba, num):
    status, _, (error,) = call("--codes", celeba, "--num", num)
    assert status == 2 and error.startswith("error: ") and "--num" in error


def test_an_attribute_that_all_have_is_left_out_with_its_reason(call, tmp_path, codes, attributes):
    whole = np.column_stack([attributes[:, 0], np.ones(2_000, int), attributes[:, 1:]])
    np.savez(tmp_path / "codes.npz", codes=codes, attributes=whole, meta=np.array([None], object))
    status, said, _ = call("--codes", tmp_path / "codes.npz", "--protocol", "fast", "--seeds", "0,1")
    assert status == 0 and "note: attribute 1 is not defined: it has a single value" in said
    assert "captured      0, 2\n" in said
