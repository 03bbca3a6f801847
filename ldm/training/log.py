"""Read and write the CSV log of a stage; format durations and scores."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from ldm.files import atomic_path


def save_log(path: Path, rows: list[dict]) -> None:
    """Write log rows as CSV; the columns are all keys, in order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a log, values as text; an empty list if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summarise_column(points: Sequence[tuple[int, float]], skip: float = 0.1) -> dict[str, float]:
    """Summarise (step, value) pairs of one column of a log.

    Args:
        points: the pairs, ordered by step, at least one.
        skip: share of the steps at the start that is left out.

    Returns:
        `last`, the mean over the last quarter of the steps; `median` and `largest`; `spike`, the ratio of the
        largest to the median, which is 1 for a constant.
    """
    end = points[-1][0]
    kept = [value for step, value in points if step > skip * end]
    middle, top = median(kept), max(kept)
    return {
        "last": mean(value for step, value in points if step > 0.75 * end),
        "median": middle,
        "largest": top,
        "spike": top / middle if middle else math.inf,
    }


def format_duration(seconds: float) -> str:
    """Format a duration as `40 s`, `12 min` or `3.2 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_scores(scores: dict[str, float]) -> str:
    """Scores on one line, in parentheses after a space; nothing for none."""
    return f" ({', '.join(f'{name} {value:.4g}' for name, value in scores.items())})" if scores else ""
