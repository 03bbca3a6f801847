"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from disdiff.commands import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ldm", "disdiff")
LIBRARY = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
CODE = [ROOT / "main.py", *LIBRARY, *SCRIPTS]
# rooms of disdiff from the lowest to the highest: a module imports from its own room and those before it
ROOMS = (
    *(
        "metrics",
        "initialisation",
        "method",
        "baselines",
        "editing",
        "evaluation",
        "config",
        "clip",
        "report",
    ),
    *("build", "runs", "interop", "api", "commands"),
)

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


def room_of(name):
    return name.split(".")[1]


def test_imports_go_down_the_rooms():
    for path in LIBRARY:
        name = module_name(path)
        if name.startswith("disdiff.") and room_of(name) in ROOMS:
            above = ROOMS[ROOMS.index(room_of(name)) + 1 :]
            others = {other for other in list_imports(path) if other.startswith("disdiff.")}
            assert not {other for other in others if room_of(other) in above}, name


def test_there_are_at_most_fourteen_rooms():
    found = {path.name.removesuffix(".py") for path in (ROOT / "disdiff").iterdir()}
    assert found - {"__init__", "__main__", "__pycache__", "_data"} == set(ROOMS) and len(ROOMS) <= 14


def test_no_modules_import_each_other_in_a_circle():
    """Imports within functions are counted, too."""
    graph = {module_name(path): list_imports(path) for path in LIBRARY}
    seen, done = [], set()

    def visit(name):
        assert name not in seen, " -> ".join([*seen[seen.index(name) :], name])
        if name in done or name not in graph:
            return
        seen.append(name)
        for other in sorted(graph[name] - {name}):
            visit(other)
        seen.pop()
        done.add(name)

    for name in graph:
        visit(name)


def package_of(name):
    return ".".join(name.split(".")[:2])


def test_imports_go_one_way():
    for path in LIBRARY:
        name = module_name(path)
        for importer, imported, why in FORBIDDEN:
            if re.match(importer, name):
                own = package_of(name) if name.count(".") > 1 else name
                strangers = {
                    other for other in list_imports(path) if package_of(other) != own and other != own
                }
                bad = {other for other in strangers if re.match(imported, other)}
                assert not bad, f"{name} {why}"


def test_every_module_is_imported_by_another():
    used = set().union(*(list_imports(path) for path in CODE))
    used |= {f"disdiff.commands.{module}" for module, _ in app.COMMANDS.values()} | {"disdiff.__main__"}
    unused = {module_name(path) for path in LIBRARY if path.name != "__init__.py"} - used
    assert not unused


def list_code(path):
    """Lines of code of a file: neither imports nor signatures, docstrings or comments."""
    aside = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            aside.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.FunctionDef):
            aside.update(range(node.lineno, node.body[0].lineno))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            aside.update(range(node.lineno, node.end_lineno + 1))
    numbered = enumerate(map(str.strip, path.read_text().splitlines()), 1)
    return [line for number, line in numbered if line and line[0] != "#" and number not in aside]


def test_no_module_is_a_copy_of_another():
    """Six lines of code, one after the other, are in one file only, whatever its name."""
    owners = {}
    for path in LIBRARY:
        code = list_code(path)
        for i in range(len(code) - 5):
            owners.setdefault("\n".join(code[i : i + 6]), set()).add(module_name(path))
    assert len(owners) > 5_000
    assert not {text: names for text, names in owners.items() if len(names) > 1}


def test_libraries_are_quiet():
    for path in LIBRARY:
        names = {name for name, _ in calls(path)}
        assert "print" not in names or module_name(path).startswith("disdiff.commands."), path


def test_nothing_is_unpickled_and_no_device_is_hidden():
    for path in CODE:
        for name, keywords in calls(path):
            assert not name.endswith(".cuda") or name == "torch.cuda", f"{name} moves to a device by name"
            if name == "torch.load":
                assert keywords.get("weights_only") == "True", path
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle", "False") == "False", path
        assert not re.search(
            r"(pickle|dill|joblib)\.(load|Unpickler)|from (pickle|dill) import (?!UnpicklingError)",
            path.read_text(),
        ), path


def test_random_numbers_come_from_a_generator():
    drawn = {f"torch.{name}" for name in ("randn", "rand", "randint", "randperm", "normal", "bernoulli")}
    initial = {"ldm/nn", "disdiff/method/gradient_decoder.py"}  # weights follow torch's own convention
    numpy_draw = re.compile(r"(np|numpy)\.random\.(?!default_rng|RandomState|Generator)")
    for path in LIBRARY:
        loose = [name for name, keywords in calls(path) if name in drawn and "generator" not in keywords]
        assert not loose or any(str(path.relative_to(ROOT)).startswith(place) for place in initial), path
        assert not [name for name, _ in calls(path) if numpy_draw.match(name)], path


def test_public_things_are_documented():
    for path in LIBRARY:
        tree = parse(path)
        if not tree.body:
            continue
        assert ast.get_docstring(tree), path
        public = [
            n
            for n in tree.body
            if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")
        ]
        assert not [node.name for node in public if not ast.get_docstring(node)], path


def test_the_entry_point_is_short():
    assert len((ROOT / "main.py").read_text().splitlines()) <= 80


def test_functions_are_short():
    for path in CODE:
        functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]
        assert not [f.name for f in functions if f.end_lineno - f.lineno >= 80], path


def test_only_commands_read_the_command_line():
    for path in LIBRARY:
        if not module_name(path).startswith("disdiff.commands."):
            read = list_imports(path) | {name for name, _ in calls(path)}
            assert not {"argparse", "sys.argv"} & read, path


def test_lines_fit():
    numbered = [(path, i, line) for path in CODE for i, line in enumerate(path.read_text().splitlines(), 1)]
    assert not [f"{path.relative_to(ROOT)}:{i}" for path, i, line in numbered if len(line) > 110]


def test_editing_does_not_wait_for_the_trainer():
    """Lightning takes longer to import than all that loading and editing a run needs."""
    modules = "sys, disdiff.api, disdiff.commands.common"
    code = f"import {modules}; print({{'torch', 'pytorch_lightning'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{'torch'}"


def test_remedies_are_commands_of_an_installed_package():
    """A wheel has neither scripts/ nor main.py."""
    for path in LIBRARY:
        assert not re.search(r"python (scripts/|main\.py)|scripts/\w+\.py", path.read_text()), path


def test_nothing_imports_the_entry_point():
    importers = [path for path in CODE if {"main"} & list_imports(path)]
    assert not importers


def test_nothing_unfinished_or_personal_is_left():
    for path in CODE:
        text = path.read_text()
        assert not re.search(r"\b(TODO|FIXME|XXX)\b|breakpoint\(|import pdb", text), path
        assert not re.search(r"[\"'](/home/|/root/|/Users/|/tmp/)", text), path


def test_files_that_are_no_code_are_installed_too():
    """Templates and the like lie in a package only where `package_data` names them."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    assert not {path for path in files - named if path.suffix not in (".py", ".pyc")}


def normalise(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def read_requirements():
    """Distributions that are always installed, and those that an extra adds."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    always = setup["options"]["install_requires"]
    extras = "\n".join(setup["options.extras_require"].values())
    return (
        {normalise(re.match(r"[\w.-]+", line)[0]) for line in text.split("\n") if line}
        for text in (always, extras)
    )


@cache
def list_distributions():
    """Distributions by the module that they bring."""
    return {module: {normalise(name) for name in names} for module, names in packages_distributions().items()}


def test_what_is_imported_is_declared():
    """At the top of a file only what is always installed; within functions what an extra adds, too."""
    always, extras = read_requirements()
    for path in CODE:
        at_top = {node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)}
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Import):
                modules = {alias.name.split(".")[0] for alias in node.names}
            else:
                modules = {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
            for module in modules - {*sys.stdlib_module_names, *PACKAGES, "scripts"}:
                declared = always if node in at_top else always | extras
                brings = list_distributions().get(module, {normalise(module)})
                assert brings & declared, f"{module}: setup.cfg"


def test_every_dependency_is_explained():
    """By one row of the table, whose last cell names files that mention it."""
    rows = re.findall(r"^\| `([\w.-]+)` \|.*\| (.*?) \|$", (ROOT / "docs/dependencies.md").read_text(), re.M)
    assert {normalise(name) for name, _ in rows} == set.union(*read_requirements())
    assert len(rows) == len(dict(rows))
    for name, places in rows:
        paths = re.findall(r"`([\w./]+)`", places)
        assert paths and all((ROOT / path).exists() for path in paths), name
