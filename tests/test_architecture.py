"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from disdiff.commands import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ldm", "disdiff")
LIBRARY = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
CODE = [ROOT / "main.py", *LIBRARY, *SCRIPTS]
# what speaks to the person at the terminal
COMMANDS = {"disdiff/runs/overview.py", "disdiff/commands/"}

# what a module must not import (itself and its own package aside); the first pattern that fits decides
FORBIDDEN = [
    (r"ldm\.(nn|diffusion|data)\.", r"ldm\.(?!errors$|files$)", "imports no sibling package"),
    (r"ldm\.", r"disdiff(\.|$)|main$|scripts", "ldm knows nothing of factors"),
    (
        r"disdiff\.(metrics\.|method\.losses$)",
        r"ldm\.(?!errors$|files$)|disdiff\.|torch\.nn$",
        "imports no model",
    ),
    (r"disdiff\.", r"main$|scripts", "imports no entry point"),
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parse(path):
    return ast.parse(path.read_text())


@cache
def list_imports(path):
    """Modules of this project (and others) that a file imports, at any depth."""
    known, found = {module_name(p) for p in LIBRARY}, set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & known or {node.module}
    return found


def calls(path):
    """Pairs (dotted name of the function called, its keyword arguments as source)."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def package_of(name):
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_imports_go_one_way(path):
    name = module_name(path)
    for importer, imported, why in FORBIDDEN:
        if re.match(importer, name):
            own = package_of(name) if name.count(".") > 1 else name
            strangers = {other for other in list_imports(path) if package_of(other) != own and other != own}
            bad = {other for other in strangers if re.match(imported, other)}
            assert not bad, f"{name} {why}"


def test_every_module_is_imported_by_another():
    used = set().union(*(list_imports(path) for path in CODE))
    used |= {f"disdiff.commands.{module}" for module, _ in app.COMMANDS.values()} | {"disdiff.__main__"}
    unused = {module_name(path) for path in LIBRARY if path.name != "__init__.py"} - used
    assert not unused


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_libraries_are_quiet(path):
    names = {name for name, _ in calls(path)}
    assert "print" not in names or str(path.relative_to(ROOT)).startswith(tuple(COMMANDS))


@pytest.mark.parametrize("path", CODE, ids=module_name)
def test_nothing_is_unpickled_and_no_device_is_hidden(path):
    for name, keywords in calls(path):
        assert not name.endswith(".cuda") or name == "torch.cuda", f"{name} moves to a device by name"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True"
        if name in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False"
    assert not re.search(
        r"(pickle|dill|joblib)\.(load|Unpickler)|from (pickle|dill) import (?!UnpicklingError)",
        path.read_text(),
    )


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_random_numbers_come_from_a_generator(path):
    drawn = {
        "torch.randn",
        "torch.rand",
        "torch.randint",
        "torch.randperm",
        "torch.normal",
        "torch.bernoulli",
    }
    loose = [name for name, keywords in calls(path) if name in drawn and "generator" not in keywords]
    # initial weights follow torch's own convention
    initial = {"ldm/nn", "disdiff/method/gradient_decoder.py"}
    assert not loose or any(str(path.relative_to(ROOT)).startswith(place) for place in initial)
    assert not [
        name
        for name, _ in calls(path)
        if re.match(r"(np|numpy)\.random\.(?!default_rng|RandomState|Generator)", name)
    ]


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_public_things_are_documented(path):
    tree = parse(path)
    if not tree.body:
        return
    assert ast.get_docstring(tree)
    public = [
        n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")
    ]
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", CODE, ids=module_name)
def test_sizes(path):
    lines = path.read_text().splitlines()
    limit = 80 if path.name == "main.py" else 10 if path in SCRIPTS else 400
    assert len(lines) <= limit
    functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]
    assert not [f.name for f in functions if f.end_lineno - f.lineno >= 80]


def test_lines_fit():
    numbered = [(path, i, line) for path in CODE for i, line in enumerate(path.read_text().splitlines(), 1)]
    assert not [f"{path.relative_to(ROOT)}:{i}" for path, i, line in numbered if len(line) > 110]


def test_editing_does_not_wait_for_the_trainer():
    """Lightning takes longer to import than all that loading and editing a run needs."""
    modules = "sys, disdiff.api, disdiff.commands.common"
    code = f"import {modules}; print({{'torch', 'pytorch_lightning'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{'torch'}"


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_remedies_are_commands_of_an_installed_package(path):
    """A wheel has neither scripts/ nor main.py."""
    assert not re.search(r"python (scripts/|main\.py)|scripts/\w+\.py", path.read_text())


def test_nothing_imports_the_entry_point():
    importers = [path for path in CODE if {"main"} & list_imports(path)]
    assert not importers


@pytest.mark.parametrize("path", CODE, ids=module_name)
def test_nothing_unfinished_or_personal_is_left(path):
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|breakpoint\(|import pdb", text)
    assert not re.search(r"[\"'](/home/|/root/|/Users/|/tmp/)", text)
