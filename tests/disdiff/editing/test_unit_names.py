import numpy as np
import pytest

from disdiff.editing.unit_names import name_data, name_numbers, name_units

FACTORS = ["floor hue", "wall hue", "scale"]


def test_units_are_named_after_what_they_carry():
    importance = np.array([[0.02, 0.01, 0.03], [0.05, 0.91, 0.04], [0.88, 0.0, 0.0], [0.05, 0.08, 0.93]])
    importance[0] = [0.02, 0.0, 0.0]
    names = name_units(4, importance, FACTORS)
    assert names.labels[1] == "unit 1 · wall hue 0.91"
    assert names.labels[0] == "unit 0 · no factor" and names.sentences[0] == "Unit 0 encodes no factor."
    assert names.sentences[1] == "Unit 1 encodes wall hue (importance 0.91)."
    assert names.order == [3, 1, 2, 0]
    assert names.of_factors == {"floor hue": [2], "wall hue": [1], "scale": [3]}


def test_a_factor_has_all_units_that_encode_it_most_or_else_the_best():
    importance = np.array([[0.3, 0.2, 0.1], [0.5, 0.0, 0.15], [0.4, 0.5, 0.18], [0.1, 0.0, 0.05]])
    found = name_units(4, importance, FACTORS).of_factors
    assert found == {"floor hue": [1, 0, 3], "wall hue": [2], "scale": [2]}
    assert name_numbers(found["floor hue"]) == "units 1, 0, 3" and name_numbers([2]) == "unit 2"


def test_a_unit_may_carry_two_factors_or_a_little_of_one():
    names = name_units(2, np.array([[0.5, 0.3, 0.25], [0.0, 0.1, 0.0]]), FACTORS)
    assert names.labels[0] == "unit 0 · floor hue 0.50, wall hue 0.30"
    assert names.sentences[0].startswith("Unit 0 encodes floor hue (importance 0.50) and wall hue")
    assert "weakly encodes wall hue" in names.sentences[1]


def test_without_scores_units_are_numbers_in_order():
    names = name_units(3, None, [])
    assert names.labels == ["unit 0", "unit 1", "unit 2"] and names.order == [0, 1, 2]
    assert not names.of_factors


def test_units_that_hardly_vary_are_left_out_of_pictures():
    names = name_units(4, None, [], np.array([1.0, 0.0024, 0.0026, 0.0]))  # 5% of a deviation is 0.0025 here
    assert names.order == [0, 1, 2, 3] and names.shown == names.used == [0, 2]
    assert names.left_out == "the 2 of 4 units that vary over the data"
    assert name_units(2, None, [], np.zeros(2)).shown == [0, 1] and not name_units(2, None, []).left_out
    many = name_units(40, None, [], np.array([0.0, *range(1, 40)]) ** 2 + 1e3)
    assert many.shown == list(range(39, 7, -1))
    assert many.left_out == "the 32 of 40 units with the highest variance"


@pytest.mark.parametrize(("procedural", "expected"), [(True, "shapes3d (procedural)"), (False, "shapes3d")])
def test_procedural_data_are_named_so(procedural, expected):
    assert name_data("shapes3d", procedural) == expected
