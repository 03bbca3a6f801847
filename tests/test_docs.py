"""What README and docs tell to type exists: scripts and their options, files, configurations."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("data", "training", "evaluation", "editing", "extending")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMES)]
PLACEHOLDER = re.compile(r"(blobs|NAME)\.yaml$")  # of a data set yet to be added


def list_options(script):
    """Every option that a script adds, itself or through `build_parser`."""
    texts = [(ROOT / path).read_text() for path in (script, "disdiff/commands/common.py")]
    own, shared = (set(re.findall(r"\"(--[\w-]+)\"", text)) for text in texts)
    return own | (shared if "build_parser" in texts[0] else set())


def list_commands(page):
    """(script, options) of every command on a page."""
    for line in re.findall(r"python ((?:scripts|benchmarks)/[^`\n]*)", page.read_text()):
        words = shlex.split(re.split(r"  |#|\)", line)[0])
        yield words[0], {word.strip("[]") for word in words if re.match(r"\[?--\w", word)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_option_of_every_command_exists(page):
    for script, options in list_commands(page):
        unknown = options - list_options(script)
        assert not unknown, f"{script} has no {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_file_that_is_named_exists(page):
    text = page.read_text()
    folders = "scripts|configs|benchmarks|docs|tests|ldm|disdiff"
    named = {name for name, _ in re.findall(rf"((?:{folders})/[\w/]+\.(py|yaml|md))", text)}
    links = set(re.findall(r"\]\((?!http)([\w./]+)\)", text))
    missing = [name for name in named if not (ROOT / name).exists() and not PLACEHOLDER.search(name)]
    assert not missing + [link for link in links if not (page.parent / link).exists()]
    assert named
