"""Which units a text means."""

import pytest

from disdiff.editing.unit_lookup import UnitTable
from ldm.errors import UserError

TABLE = UnitTable(4, given=["007", "no", "1.0", "2"])


@pytest.mark.parametrize(
    ("unit", "found"),
    [(2, [2]), ("2", [2]), (" 3 ", [3]), ("007", [0]), ("003", [3]), ("No", [1]), ("1.0", [2])],
)
def test_names_that_look_like_numbers_are_names_as_written(unit, found):
    assert TABLE.find(unit) == found


@pytest.mark.parametrize("unit", ["--3", "off", "1.00", "9" * 5000, "-", ""])
def test_what_is_neither_is_one_sentence(unit):
    with pytest.raises(UserError, match="no unit has the name"):
        TABLE.find(unit)


@pytest.mark.parametrize("unit", [4, "17", "-5", "0099"])
def test_an_index_that_is_none(unit):
    with pytest.raises(UserError, match="0 to 3|0 .. 3"):
        TABLE.find(unit)
