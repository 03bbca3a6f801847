import numpy as np
import pytest
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.model_selection import KFold

from disdiff.metrics.tad import compute_tad, compute_tad_binarised, compute_tad_eleven_thresholds
from ldm.errors import UserError


@pytest.fixture(scope="module")
def attributes():
    return (np.random.default_rng(0).random((1_000, 4)) < [0.5, 0.3, 0.2, 0.4]).astype(int)


@pytest.fixture(scope="module")
def codes(attributes):
    noise = np.random.default_rng(1).normal(size=(1_000, 5))
    noise[:, :3] += attributes[:, :3] * [4.0, -3.0, 0.3]
    return noise


def score(codes, attributes, **changes):
    return compute_tad(codes, attributes, **({"num_rows": 1_000} | changes))


def test_identity_codes_capture_every_independent_attribute(attributes):
    result = score(attributes.astype(float), attributes)
    assert result["num_captured"] == 4
    assert result["score"] == pytest.approx(4 * 0.5, abs=0.15)
    assert result["captured"] == [1.0] * 4


def test_a_duplicated_code_has_no_gap_and_noise_captures_nothing(attributes):
    twice = np.hstack([attributes, attributes]).astype(float)
    assert score(twice, attributes)["score"] == 0.0
    noise = np.random.default_rng(2).normal(size=(1_000, 4))
    assert (score(noise, attributes)["num_captured"], score(noise, attributes)["score"]) == (0.0, 0.0)


def test_redundant_attributes_are_not_counted(attributes):
    copied = np.column_stack([attributes, 1 - attributes[:, 0]])
    result = score(copied.astype(float), copied)
    assert result["captured"] == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_sign_and_scale_of_a_dimension_do_not_matter(codes, attributes):
    plain, turned = score(codes, attributes), score(codes * [-1, 5, -0.1, 1, 1], attributes)
    assert turned["score"] == pytest.approx(plain["score"], abs=1e-12)


def test_agrees_with_scikit_learn_fold_by_fold(codes, attributes):
    codes = np.round(codes, 1)
    scores, counts = [], []
    for rows, _ in KFold(5, shuffle=True, random_state=0).split(codes):
        total, count = 0.0, 0
        for i, labels in enumerate(attributes[rows].T):
            both = [[roc_auc_score(labels, s * c) for s in (1, -1)] for c in codes[rows].T]
            best = sorted(max(pair) for pair in both)
            entropy = mutual_info_score(labels, labels)
            shared = [mutual_info_score(labels, o) for j, o in enumerate(attributes[rows].T) if j != i]
            if best[-1] >= 0.75 and max(shared) / entropy <= 0.2:
                total, count = total + best[-1] - best[-2], count + 1
        scores.append(total)
        counts.append(count)
    result = score(codes, attributes)
    assert result["score"] == pytest.approx(np.mean(scores), abs=1e-9)
    assert result["score_std"] == pytest.approx(np.std(scores), abs=1e-9)
    assert result["num_captured"] == np.mean(counts) == 2


def test_eleven_thresholds_agree_with_a_loop(codes, attributes):
    codes = codes * [1, 1, 1, 1, 0.01]
    result = compute_tad_eleven_thresholds(codes, attributes)
    for i, labels in enumerate(attributes.T.astype(bool)):
        for j, column in enumerate(codes.T):
            low, high = column.min(), column.max()
            areas = []
            for positive in (True, False):
                rates = []
                for t in np.linspace(0, 1, 11):
                    predicted = (column >= low + t * (high - low)) == positive
                    rates.append(
                        (
                            (predicted & ~labels).sum() / (~labels).sum(),
                            (predicted & labels).sum() / labels.sum(),
                        )
                    )
                false, true = np.sort(np.array(rates), axis=0).T
                areas.append((true[1:] * np.diff(false)).sum())
            expected = max(areas) if high - low > 0.2 else 0.5
            assert result["auroc"][i][j] == pytest.approx(expected, abs=1e-9)
    assert result["auroc"][0][4] == 0.5
    assert result["num_captured"] == 2


def test_width_and_mapping_of_vector_units_are_recorded(codes, attributes):
    vectors = np.stack([codes, 0.2 * codes], axis=2)
    every, first = score(vectors, attributes), score(vectors, attributes, mapping="pca1")
    assert (every["width"], every["mapping"]) == (10, "all")
    assert (first["width"], first["mapping"]) == (5, "pca1")
    assert score(codes, attributes)["mapping"] == "scalar"
    assert every["score"] == pytest.approx(0, abs=1e-12)
    assert first["score"] == pytest.approx(score(codes, attributes)["score"], abs=1e-9)


def test_binarised_factors_are_named_by_factor_and_value(factors):
    pair = np.column_stack([factors[:, 0] > 1, factors[:, 1]]).astype(int)
    result = compute_tad_binarised(pair.astype(float), pair, num_rows=3_000)
    assert result["attributes"] == [[0, 1], [1, 0], [1, 1], [1, 2]]
    assert result["captured"] == [1.0, 1.0, 0.0, 1.0]
    assert np.array(result["auroc"]).shape == (4, 2)


def test_bad_attributes_and_too_few_rows_are_named(codes, attributes):
    with pytest.raises(UserError, match="attributes must be 0 or 1, but contain"):
        score(codes, attributes * 2 - 1)
    with pytest.raises(UserError, match="codes have 1000 rows but 10000 are needed"):
        compute_tad(codes, attributes)


def test_no_dimension_over_the_range_is_told(attributes):
    codes = np.random.default_rng(0).random((1_000, 3)) + 3.0 * attributes[:, :3]
    assert "note" not in compute_tad_eleven_thresholds(codes, attributes)
    small = compute_tad_eleven_thresholds(codes * 1e-2, attributes)
    assert small["score"] == 0 and "leaves out ranges up to 0.2" in small["note"]


@pytest.mark.parametrize("num_rows", [0, 1, 4])
def test_fewer_rows_than_folds_are_refused(attributes, num_rows):
    codes = np.random.default_rng(0).random((1_000, 3))
    for compute in (compute_tad, compute_tad_binarised):
        with pytest.raises(UserError, match="cannot make 5 folds"):
            compute(codes, attributes, num_rows=num_rows)
