"""What README and docs tell to type exists: scripts and their options, files, configurations."""

import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from disdiff.commands.app import COMMANDS
from disdiff.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]
OTHERS = ("CONTRIBUTING", "benchmarks/RECIPE", "benchmarks/COMPARISON", "pretrained/README", "data/README")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *(ROOT / f"{name}.md" for name in OTHERS)]
PLACEHOLDER = re.compile(r"(blobs|NAME)\.yaml$")  # of a data set yet to be added


def name_page(path):
    """A page's path within the repository."""
    return path.relative_to(ROOT).as_posix()


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
    text, names = page.read_text().replace("\\\n", " "), "|".join(COMMANDS)
    lines = re.findall(r"python ((?:scripts|benchmarks)/[^`\n]*)", text)
    lines += re.findall(rf"(?:^|`)disdiff ((?:{names})\b[^`\n]*)", text, re.MULTILINE)
    for line in lines:
        words = shlex.split(re.split(r"  |#|\)", line)[0])
        yield words[0], {word.strip("[]") for word in words if re.match(r"\[?--\w", word)}


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_option_of_every_command_exists(page):
    for script, options in list_commands(page):
        unknown = options - list_options(script)
        assert not unknown, f"{script} has no {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_file_that_is_named_exists(page):
    text = page.read_text()
    folders = "scripts|configs|benchmarks|docs|tests|ldm|disdiff"
    named = {name for name, _ in re.findall(rf"((?<![\w/-])(?:{folders})/[\w/]+\.(py|yaml|md))", text)}
    links = set(re.findall(r"\]\((?!http)([\w./-]+)[)#]", text))
    missing = [name for name in named if not (ROOT / name).exists() and not PLACEHOLDER.search(name)]
    assert not missing + [link for link in links if not (page.parent / link).exists()]
    assert named | links


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_key_of_the_configuration_exists(page):
    """As `section.key` in a page's code, where the section is one of the configuration's."""
    sections = {field.name: field.default_factory for field in fields(Config) if field.default_factory is not MISSING}
    for section, key in re.findall(rf"(?<![\w./-])({'|'.join(sections)})\.(\w+)(?![\w/]*\()", page.read_text()):
        if key not in ("py", "yaml", "md", "npz"):
            assert key in {field.name for field in fields(sections[section])}, f"{section}.{key}"
