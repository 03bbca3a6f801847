"""What README and docs tell to type exists: scripts and their options, files, configurations."""

import re
import shlex
from pathlib import Path

import pytest

from disdiff.commands.app import COMMANDS
from disdiff.config.schema import Config, list_keys

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KEYS = list_keys(Config)
SECTIONS = {key.split(".")[0] for key in KEYS if "." in key}
FILE = re.compile(r"\.(py|csv|json|npz|yaml|html|md)$")
PLACEHOLDER = re.compile(r"(blobs|NAME)\.yaml$")  # of a data set yet to be added


def find_module(name):
    """The file with the options of a command, such as `swap`, or of a script."""
    if name in COMMANDS:
        return f"disdiff/commands/{COMMANDS[name][0]}.py"
    command = re.search(r"from disdiff\.commands\.(\w+) import main", (ROOT / name).read_text())
    return f"disdiff/commands/{command[1]}.py" if command else name


def list_options(name):
    """Every option that a command or a script adds, itself or through `build_parser`."""
    texts = [(ROOT / path).read_text() for path in (find_module(name), "disdiff/commands/common.py")]
    own, shared = (set(re.findall(r"\"(--[\w-]+)\"", text)) for text in texts)
    return own | (shared if "build_parser" in texts[0] else set())


def list_commands(page):
    """(command or script, options) of every command on a page."""
    text, names = page.read_text(), "|".join(COMMANDS)
    lines = re.findall(r"python ((?:scripts|benchmarks)/[^`\n]*)", text)
    lines += re.findall(rf"(?:^|`)disdiff ((?:{names})\b[^`\n]*)", text, re.MULTILINE)
    for line in lines:
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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_key_of_the_configuration_exists(page):
    """What a page calls `section.key`, or sets by `section.key=value`, is a key or a section."""
    words = re.findall(r"(?:^|[\s`(\[])((?:\w+\.)+\w+)(?=[=`])", page.read_text(), re.MULTILINE)
    named = {word for word in words if word.split(".")[0] in SECTIONS and not FILE.search(word)}
    assert not named - set(KEYS)


def test_the_pages_are_looked_at():
    """So the tests above see commands, files and keys, wherever these stand."""
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(PAGES) >= 2 and re.search(r"configs/[\w/]+\.yaml", text)
    assert any(options for page in PAGES for _, options in list_commands(page))
    assert re.search(r"code\.\w+=", text)
