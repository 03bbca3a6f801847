import json

import numpy as np
import pytest

from disdiff.evaluation.row_cache import PART, RowCache
from ldm.errors import UserError


def rows(start, stop):
    return np.arange(start, stop, dtype=np.float32)[:, None] * [1, 2]


def test_rows_come_whole_and_are_computed_once(tmp_path):
    asked = []

    def make(start, stop):
        asked.append((start, stop))
        return rows(start, stop)

    cache, num = RowCache(tmp_path), 2 * PART + 3
    first = cache.compute("rows", {"a": 1}, num, make)
    np.testing.assert_array_equal(first, rows(0, num))
    assert asked == [(0, PART), (PART, 2 * PART), (2 * PART, num)]
    np.testing.assert_array_equal(cache.compute("rows", {"a": 1}, num, make), first)
    assert len(asked) == 3
    cache.compute("rows", {"a": 1}, num + 1, make)  # more rows: only the part that was not full
    assert asked[3:] == [(2 * PART, num + 1)]
    cache.compute("rows", {"a": 2}, PART, make)
    assert asked[4:] == [(0, PART)]


def test_an_interruption_loses_only_the_part_at_work(tmp_path):
    def stop_at_the_second(start, stop):
        if start:
            raise KeyboardInterrupt
        return rows(start, stop)

    cache = RowCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.compute("rows", {}, 2 * PART, stop_at_the_second)
    (place,) = tmp_path.iterdir()
    names = {path.name for path in place.iterdir()}
    assert names == {"identity.json", f"000000-{PART:06d}.npy"}
    assert json.loads((place / "identity.json").read_text()) == {}


def test_a_damaged_part_is_named(tmp_path):
    load = RowCache(tmp_path).wrap({}, rows)
    load(0, 4)
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="000000-000004.npy is damaged; delete it"):
        load(0, 4)
