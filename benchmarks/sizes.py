"""What is largest in the code: files, functions and constructors. A report, not a limit.

Lines of a file or a function are all of its lines; the width of a constructor is the number of parameters of
`__init__`, or of fields where a dataclass has none of its own.

python benchmarks/sizes.py [--num 10] [FOLDER ...]
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ldm", "disdiff", "scripts", "benchmarks", "tests")


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is decorated by `dataclass`."""
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def count_parameters(node: ast.ClassDef) -> int:
    """Parameters of a constructor, `self` aside; 0 where the class has none of its own."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            given = item.args
            rest = [each for each in (given.vararg, given.kwarg) if each]
            return len(given.posonlyargs + given.args + given.kwonlyargs + rest) - 1
    return sum(isinstance(item, ast.AnnAssign) for item in node.body) if is_dataclass(node) else 0


def list_sizes(path: Path) -> Iterator[tuple[str, int, str]]:
    """(kind, size, place) of a file, its functions and its constructors."""
    text = path.read_text()
    place = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    yield "lines of files", len(text.splitlines()), place
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            yield (
                "lines of functions",
                node.end_lineno - node.lineno + 1,
                f"{place}:{node.lineno} {node.name}",
            )
        if isinstance(node, ast.ClassDef) and count_parameters(node):
            yield "parameters of constructors", count_parameters(node), f"{place}:{node.lineno} {node.name}"


def main() -> None:
    """Print the largest of each kind, the largest first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help=f"default: {' '.join(FOLDERS)}"
    )
    parser.add_argument("--num", type=int, default=10, help="so many of each kind (10)")
    arguments = parser.parse_args()
    folders = arguments.folders or [ROOT / name for name in FOLDERS]
    sizes = [
        each for folder in folders for path in folder.resolve().rglob("*.py") for each in list_sizes(path)
    ]
    for kind in dict.fromkeys(kind for kind, _, _ in sizes):
        largest = sorted(((size, place) for each, size, place in sizes if each == kind), reverse=True)
        print(f"{kind}:", *(f"{size:6d}  {place}" for size, place in largest[: arguments.num]), "", sep="\n")


if __name__ == "__main__":
    main()
