"""Finding the pictures in a folder and the folders in it, links included, under names that can be printed."""

import heapq
import os
import unicodedata
from collections import deque

SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".dib", ".gif", ".tif"),
    *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".heic", ".heif"),
}


def printable(name: str) -> str:
    """A file's name in Unicode's composed form (NFC), with escapes for what is no text."""
    if name.isascii() and name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = unicodedata.normalize("NFC", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def list_pictures(root: str) -> tuple[list[str], dict[str, str]]:
    """The picture files in a folder and the folders in it; what is hidden is left alone.

    A link to a folder is followed after all folders proper, and only where its folder was not reached yet, so
    that links which lead back end. A link to a picture that is found anyway does not count.

    Args:
        root: the folder.

    Returns:
        Relative paths of the pictures, and why each folder or link that cannot be read cannot, by path.
    """
    files: list[str] = []
    links: list[str] = []
    unread: dict[str, str] = {}
    folders, linked, seen = deque([""]), list[str](), set()
    while folders or linked:
        folder = folders.popleft() if folders else heapq.heappop(linked)
        try:
            identity = _identify(os.path.join(root, folder))
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(os.path.join(root, folder)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            unread[folder] = error.strerror or str(error)
            continue
        for entry in entries:
            path, is_link = folder + entry.name, entry.is_symlink()
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{path}/")
            elif is_link and os.path.isdir(entry.path):
                heapq.heappush(linked, f"{path}/")
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                (links if is_link else files).append(path)
            elif is_link and not os.path.exists(entry.path):
                unread[path] = "a broken link"
    return files + _drop_known(root, links, files), unread


def _drop_known(root: str, links: list[str], files: list[str]) -> list[str]:
    """The links to pictures that are neither among `files` nor where an earlier link leads."""
    seen: set[object] = {_identify(os.path.join(root, path)) for path in files} if links else set()
    kept = []
    for path in sorted(links):
        try:
            identity: object = _identify(os.path.join(root, path))
        except OSError:  # broken: it is found out when it is read, as other pictures that cannot be
            identity = path
        if identity not in seen:
            seen.add(identity)
            kept.append(path)
    return kept


def _identify(path: str) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino
