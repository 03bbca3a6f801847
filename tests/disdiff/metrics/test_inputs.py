import numpy as np
import pytest
from sklearn.decomposition import PCA

from disdiff.metrics._inputs import (
    check_attributes,
    check_codes,
    check_factors,
    check_inputs,
    find_varying,
    standardise,
    unit_scalars,
)
from ldm.errors import UserError


def spoil(array, value):
    copy = np.array(array)
    copy[3, 1] = value
    return copy


@pytest.mark.parametrize(
    ("change_codes", "change_factors", "sentence"),
    [
        (lambda c: spoil(c, np.nan), lambda f: f, r"codes contain NaN \(1 rows\)"),
        (lambda c: spoil(c, np.inf), lambda f: f, "codes contain .* infinity"),
        (lambda c: c[:-1], lambda f: f, "codes have 2999 rows but factors have 3000"),
        (lambda c: np.ones_like(c), lambda f: f, "codes are constant in every unit"),
        (lambda c: c[:, 0], lambda f: f, "codes must have shape"),
        (lambda c: c[..., None], lambda f: f, "use unit_scalars"),
        (lambda c: c.astype(str), lambda f: f, "codes must be floating-point"),
        (lambda c: c, lambda f: f + 0.5, "factors must be integers"),
        (lambda c: c, lambda f: f[:, 0], "factors must have shape"),
        (lambda c: c, lambda f: f * [1, 0, 1], r"single value in column\(s\) \[1\]"),
    ],
)
def test_bad_arrays_are_named(identity, factors, change_codes, change_factors, sentence):
    with pytest.raises(UserError, match=sentence):
        check_inputs(change_codes(identity), change_factors(factors))


def test_too_few_rows_are_refused(identity, factors):
    with pytest.raises(UserError, match="codes have 3000 rows but 3001 are needed"):
        check_inputs(identity, factors, 3_001)


def test_one_constant_unit_is_allowed(identity, factors):
    codes, _ = check_inputs(identity * [1, 0, 1], factors)
    assert (codes[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a[:-1], "codes have 3000 rows but attributes have 2999"),
        (lambda a: a * [1, 0, 1], r"attributes have a single value in column\(s\) \[1\]"),
        (lambda a: a[:, 0], "attributes must have shape"),
        (lambda a: a + 1, "attributes must be 0 or 1"),
        (lambda a: a.astype(str), "attributes must be 0 or 1"),
    ],
)
def test_bad_attributes_are_called_attributes(factors, change, says):
    with pytest.raises(UserError, match=says):
        check_attributes(change((factors > 1).astype(int)), 3_000)


def test_factor_values_are_renumbered_in_their_order():
    assert check_factors(np.array([[7, -3], [2, 5], [7, 5]]), 3).tolist() == [[1, 0], [0, 1], [1, 1]]


def test_unit_scalars_are_the_first_principal_component():
    codes = np.random.default_rng(0).normal(size=(500, 4, 6)) @ np.diag([3, 1, 1, 0.5, 0.5, 2.0])
    scalars = unit_scalars(codes)
    for unit in range(4):
        expected = PCA(1).fit(codes[:, unit])
        sign = np.sign(expected.components_[0][np.abs(expected.components_[0]).argmax()])
        expected_scores = sign * expected.transform(codes[:, unit])[:, 0]
        np.testing.assert_allclose(scalars[:, unit], expected_scores, atol=1e-10)


def test_unit_scalars_recover_a_scalar_behind_a_vector(identity):
    direction = np.array([0.6, -0.8])
    scalars = unit_scalars(identity[..., None] * direction)
    np.testing.assert_allclose(scalars, identity.mean(axis=0) - identity, atol=1e-12)


def test_unit_scalars_keep_scalar_units_and_flatten_on_request(identity):
    assert (unit_scalars(identity) == identity).all()
    vectors = np.stack([identity, -identity], axis=2)
    assert unit_scalars(vectors, "all").tolist() == vectors.reshape(len(identity), -1).tolist()
    with pytest.raises(UserError, match="unit_mode=pca2 is unknown"):
        unit_scalars(identity, "pca2")


def test_a_constant_vector_unit_becomes_zeros(identity):
    vectors = np.stack([identity, identity], axis=2)
    vectors[:, 1] = 0.1
    assert (unit_scalars(vectors)[:, 1] == 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_a_column_that_varies_by_rounding_alone_is_constant(dtype, scale):
    start = np.asarray(0.3 * scale, dtype)
    column = np.tile([start, np.nextafter(start, dtype(np.inf))], 50)
    varying = np.linspace(0, 1, 100).astype(dtype)
    assert find_varying(np.stack([column, varying, -column], axis=1)).tolist() == [False, True, False]


def test_what_varies_little_still_varies():
    rows = np.random.default_rng(0).normal(size=(100, 3)) * [1e-9, 1e-200, 1.0] + [1.0, 0.0, 1e6]
    assert find_varying(rows).all()
    assert not find_varying(np.zeros((5, 2))).any()


def test_codes_that_vary_by_rounding_alone_have_collapsed(identity):
    jitter = np.where(identity > 1, 0.3, 0.1 + 0.2)
    assert len(np.unique(jitter)) == 2
    for codes in (jitter, np.stack([jitter, -jitter], axis=2)):
        with pytest.raises(UserError, match="codes are constant in every unit"):
            check_codes(codes)
    vectors = np.stack([identity, identity], axis=2)
    vectors[:, 1] = jitter[:, 1, None]
    assert (unit_scalars(vectors)[:, 1] == 0).all()


def test_standardising_leaves_rounding_alone():
    column = np.tile([0.3, 0.1 + 0.2], 50)[:, None]
    assert np.abs(standardise(column, column)).max() < 1e-15


@pytest.mark.parametrize("dtype", [float, np.float32, bool, np.uint8, np.int64])
def test_attributes_may_be_zeros_and_ones_of_any_type(factors, dtype):
    attributes = (factors > 1).astype(int)
    got = check_attributes(attributes.astype(dtype), 3_000)
    assert got.dtype == np.int64 and (got == attributes).all()
    assert (check_factors(attributes.astype(dtype), 3_000) == attributes).all()


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_factors_that_are_no_whole_numbers_are_refused(factors, value):
    with pytest.raises(UserError, match="factors must be integers"):
        check_factors(spoil(factors.astype(float), value), 3_000)
