"""Cache array rows that take long to compute on disk.

The folder of an array is named by a hash of everything that the array depends on (listed in `identity.json`).
It holds one file per `PART` rows. A later call loads the existing parts and computes the others, so an
interrupted command continues where it stopped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ldm.errors import UserError
from ldm.files import atomic_path, digest_json, save_json

PART = 64
Identity = dict[str, Any]
Rows = Callable[[int, int], np.ndarray]


class RowCache:
    """A cache of arrays in a folder, which is created on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wrap(self, identity: Identity, make: Rows) -> Rows:
        """Wrap a function so that every range of rows is computed once.

        Args:
            identity: everything that the rows depend on, JSON-ready.
            make: function of (start, stop) that returns the rows [start, stop).

        Returns:
            A function with the signature of `make`. It raises UserError if a cached file is damaged.
        """
        place = self._open(identity)

        def load(start: int, stop: int) -> np.ndarray:
            """Load the rows [start, stop) from their file, after computing it if it is missing."""
            path = _part_path(place, start, stop)
            if path.exists():
                return _read(path)
            rows = make(start, stop)
            with atomic_path(path) as temporary:
                np.save(temporary, rows)
            return rows

        return load

    def compute(self, title: str, identity: Identity, num_rows: int, make: Rows) -> np.ndarray:
        """Compute all rows, shape (num_rows, ...), with a progress bar; see `wrap` for the arguments."""
        place, load, results = self._open(identity), self.wrap(identity, make), []
        parts = [(start, min(start + PART, num_rows)) for start in range(0, num_rows, PART)]
        missing = [part for part in parts if not _part_path(place, *part).exists()]
        done = num_rows - sum(stop - start for start, stop in missing)
        with tqdm(total=num_rows, initial=done, desc=title, unit="image", dynamic_ncols=True) as bar:
            for part in parts:
                results.append(load(*part))
                bar.update(part[1] - part[0] if part in missing else 0)
        return np.concatenate(results)

    def _open(self, identity: Identity) -> Path:
        place = self.folder / digest_json(identity, 16)
        if not (place / "identity.json").exists():
            save_json(place / "identity.json", identity)
        return place


def _part_path(place: Path, start: int, stop: int) -> Path:
    return place / f"{start:06d}-{stop:06d}.npy"


def _read(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is damaged; delete it and run the same command again") from error
