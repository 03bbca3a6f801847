"""List the pictures in a folder and its subfolders, links included, with printable names."""

import heapq
import os
import unicodedata
from collections import deque

SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".dib", ".gif", ".tif"),
    *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".heic", ".heif"),
}


def printable(name: str) -> str:
    """A file's name in Unicode's composed form (NFC), with escapes for bytes that are not text."""
    if name.isascii() and name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = unicodedata.normalize("NFC", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def list_pictures(root: str) -> tuple[list[str], dict[str, str]]:
    """List the picture files in a folder and its subfolders; hidden files and folders are skipped.

    A link to a folder is followed after all real folders, and only if the folder was not visited yet; so
    cyclic links end. A link to a picture that is already in the list is skipped.

    Args:
        root: the folder.

    Returns:
        Relative paths of the pictures, and by path the reason why a folder or link cannot be read.
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
    """The links to pictures that are neither in `files` nor the target of an earlier link."""
    seen: set[object] = {_identify(os.path.join(root, path)) for path in files} if links else set()
    kept = []
    for path in sorted(links):
        try:
            identity: object = _identify(os.path.join(root, path))
        except OSError:  # a broken link: reading it later reports the error, as for other pictures
            identity = path
        if identity not in seen:
            seen.add(identity)
            kept.append(path)
    return kept


def _identify(path: str) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino
