"""What README and docs tell to type exists: scripts and their options, files, configurations."""

import ast
import re
import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from disdiff.commands.app import COMMANDS, load_command
from disdiff.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]
OTHERS = (
    "README",
    "CONTRIBUTING",
    "benchmarks/RECIPE",
    "benchmarks/COMPARISON",
    "pretrained/README",
    "data/README",
)
PAGES = [*(ROOT / f"{name}.md" for name in OTHERS), *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDER = re.compile(r"(blobs|NAME)\.(yaml|py)$")  # of what is yet to be added or chosen
SUFFIX = re.compile(r"\.(md|py|yaml|npz)$")
CONFIG = Config()


def name_page(path):
    """A page's path within the repository."""
    return path.relative_to(ROOT).as_posix()


def list_options(name):
    """Every option of a command, such as `swap`, or of a script or a benchmark."""
    if name not in COMMANDS:
        text = (ROOT / name).read_text()
        modules = re.findall(r"from disdiff\.commands\.(\w+) import main", text)
        if not modules:  # a benchmark
            shared = {"--base"} if "begin_job_parser" in text else set()
            return {*re.findall(r"\"(--[\w-]+)\"", text), *shared}
        (name,) = (command for command, (module, _) in COMMANDS.items() if module == modules[0])
    return {*load_command(name).make_parser()._option_string_actions, "--debug"}


def list_commands(page):
    """(command or script, options) of every command on a page."""
    text, names = page.read_text().replace("\\\n", " "), "|".join(COMMANDS)
    lines = re.findall(r"python ((?:scripts|benchmarks)/[^`\n]*)", text)
    lines += re.findall(rf"(?:^|`)disdiff ((?:{names})\b[^`\n]*)", text, re.MULTILINE)
    for line in (line for line in lines if not line.startswith("scripts/NAME.py")):
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


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_key_of_the_configuration_exists(page):
    """Dotted, such as `code.encoder.freeze_steps`, with one of the configuration's sections at the front."""
    sections = "|".join(field.name for field in fields(Config) if is_dataclass(getattr(CONFIG, field.name)))
    for key in re.findall(rf"(?<![\w./-])(?:{sections})(?:\.[a-z]\w*)+(?![\w/(])", page.read_text()):
        section = CONFIG
        for name in key.split(".") if not SUFFIX.search(key) else ():
            assert hasattr(section, name), f"there is no {key}"
            section = getattr(section, name)


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
HOOKS = ast.parse((ROOT / "docs/site_hooks.py").read_text())  # not imported, as mkdocs may not be installed
(OUTSIDE,) = (
    ast.literal_eval(node.value)
    for node in HOOKS.body
    if isinstance(node, ast.Assign) and node.targets[0].id == "OUTSIDE"
)
SITE = {name_page(path) for path in (ROOT / "docs").rglob("*")} | set(OUTSIDE)
LINKING = sorted({*map(name_page, PAGES), *(name for name in SITE if name.endswith(".md"))})


def list_anchors(name):
    """The anchor of every heading of a page, as Markdown's table of contents makes them."""
    text = FENCE.sub("", (ROOT / name).read_text())
    titles = re.findall(r"^#+ (.*)$", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.encode("ascii", "ignore").decode()) for title in titles]
    return {re.sub(r"[-\s]+", "-", title.strip().lower()) for title in plain}


@pytest.mark.parametrize("name", LINKING)
def test_every_link_leads_to_a_file_and_to_a_heading(name):
    """What `make docs` would refuse, without its packages."""
    for target, anchor in LINK.findall(FENCE.sub("", (ROOT / name).read_text())):
        place = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert place.exists(), f"{name} links to {target}"
        found = name_page(place)
        assert name not in SITE or found in SITE, f"{found} is no page of the site (docs/site_hooks.py)"
        assert not anchor or anchor in list_anchors(found), f"{found} has no heading #{anchor}"


def test_every_page_of_the_site_is_in_its_menu():
    menu = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    named = set(re.findall(r"[\w./-]+\.md", menu))
    assert named == {name.removeprefix("docs/") for name in SITE if name.endswith(".md")}
