import math

import pytest

from ldm.training.log import format_duration, read_log, save_log


def test_a_log_comes_back_and_may_gain_columns(tmp_path):
    save_log(tmp_path / "log.csv", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "extra": 3.0}])
    rows = read_log(tmp_path / "log.csv")
    assert rows == [{"step": "1", "loss": "0.5", "extra": ""}, {"step": "2", "loss": "0.25", "extra": "3.0"}]
    assert read_log(tmp_path / "absent.csv") == []


def test_a_log_row_holds_every_statistic_also_those_of_some_steps_only(tmp_path, run, tiny_task):
    run(tiny_task(), tmp_path)
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == ["10", "30"]  # an early one, and the last
    assert all(row["loss"] and row["noise"] and row["sometimes"] for row in rows)
    assert float(rows[-1]["images_per_second"]) > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (1800, "30 min"),
        (7200, "2.0 h"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_durations_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text
