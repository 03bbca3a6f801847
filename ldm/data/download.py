"""Resumable download of a file over HTTP.

Bytes are written to `<file>.part`; `<file>.part.json` has their address and version (size and ETag). The file
gets its final name only if its size, and its checksum if known, are right.
"""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ldm.data.arrays import Progress, silent
from ldm.errors import UserError
from ldm.files import digest_file, load_json, save_json

PIECE = 2**20
TIMEOUT = 60


def download(url: str, target: Path, sha256: str | None = None, progress: Progress = silent) -> str:
    """Download `url` to `target`, continuing an earlier attempt if there is one.

    Args:
        url: the address.
        target: the file.
        sha256: the file's checksum or its first digits, if known.
        progress: called with (bytes done, total bytes; 0 if the server does not send the size).

    Returns:
        The sha256 of the file.

    Raises:
        UserError: the server cannot be reached, the connection breaks, the disk is full, or the checksum is
            wrong. The bytes are kept for the next attempt, unless the checksum is wrong.
    """
    part, note = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        done = _held(part, note, url)
        with closing(_request(url, done)) as response:
            if response.status != 206 or _version(response, done) != _noted(note):
                if response.status == 206:  # the server sent the rest of another version
                    part.unlink()
                    return download(url, target, sha256, progress)
                done = 0
            version = _version(response, done)
            save_json(note, {"url": url, "version": version})
            with part.open("r+b" if done else "wb") as file:
                file.seek(done)
                file.truncate()
                for piece in _pieces(response, url):
                    file.write(piece)
                    done += len(piece)
                    progress(done, version["size"])
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        reason = f"{error.strerror or error}; free some space or choose another folder, then run it again"
        raise UserError(f"cannot write {part}: {reason}") from error
    if version["size"] and done != version["size"]:
        raise UserError(
            f"the download of {url} stopped after {done} of {version['size']} bytes; run again to continue"
        )
    found = digest_file(part)
    if sha256 is not None and not found.startswith(sha256.lower()):
        part.unlink()
        note.unlink()
        raise UserError(
            f"{url} gave a file with sha256 {found}, expected {sha256}; the file was deleted, try again"
        )
    os.replace(part, target)
    note.unlink()
    return found


def _request(url: str, done: int) -> HTTPResponse:
    """Request the bytes of `url` after the first `done`."""
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and done:  # no bytes are missing, or the file is shorter now: start again
            return _request(url, 0)
        raise UserError(f"{url} cannot be downloaded ({error}); try again, or get it by hand") from error
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{url} cannot be downloaded ({error}); try again, or get it by hand") from error


def _pieces(response: HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            piece = response.read(PIECE)
        except (OSError, HTTPException) as error:
            raise UserError(f"the download of {url} stopped ({error}); run again to continue") from error
        if not piece:
            return
        yield piece


def _held(part: Path, note: Path, url: str) -> int:
    """Number of bytes of an earlier attempt at this address."""
    with suppress(UserError, OSError, TypeError, KeyError):
        if load_json(note)["url"] == url:
            return part.stat().st_size
    return 0


def _noted(note: Path) -> dict | None:
    with suppress(UserError, TypeError, KeyError):
        return load_json(note)["version"]
    return None


def _version(response: HTTPResponse, done: int) -> dict[str, Any]:
    """Size of the whole file (0 if unknown) and its ETag."""
    length = int(response.headers.get("Content-Length") or 0)
    return {
        "size": done * (response.status == 206) + length if length else 0,
        "tag": response.headers.get("ETag"),
    }
