"""Atomic file writing: a killed run or a full disk never leaves a half-written file under its final name."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ldm.errors import UserError


def expand_home(path: str | Path) -> Path:
    """Replace a leading `~` or `~NAME` by that home folder, if the folder is known."""
    return Path(os.path.expanduser(path))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps the suffix, because numpy and matplotlib choose the file format by it.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        raise UserError(message) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_partial(folder: str | Path) -> None:
    """Delete the temporary files of killed writers in `folder`; no other process may be writing there."""
    for path in Path(folder).glob(".*.part*"):
        path.unlink(missing_ok=True)


def save_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically; NaN and infinity raise ValueError (they are not JSON)."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load_json(path: str | Path) -> Any:
    """Read a JSON file; UserError if the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run again") from error


def digest_file(path: str | Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits; UserError if the file cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def digest_json(content: Any, num_digits: int = 12) -> str:
    """The first digits of the SHA-256 of `content` as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:num_digits]
