"""The report of sizes counts lines and parameters."""

import pytest


@pytest.fixture
def sizes(load_benchmark):
    return load_benchmark("sizes")


TEXT = """
import dataclasses
from dataclasses import dataclass


class Wide:
    def __init__(self, a, /, b, *rest, c=1, **more):
        self.a = a


@dataclass
class Record:
    a: int
    b: int = 0
    c = 3


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int


class Plain:
    a: int

    def long(self):
        pass

        pass
"""


def test_lines_and_parameters_are_counted(sizes, tmp_path):
    path = tmp_path / "some.py"
    path.write_text(TEXT)
    found = {(kind, place.split()[-1]): size for kind, size, place in sizes.list_sizes(path)}
    assert found == {
        ("lines of files", str(path)): len(TEXT.splitlines()),
        ("lines of functions", "__init__"): 2,
        ("lines of functions", "long"): 4,
        ("parameters of constructors", "Wide"): 5,
        ("parameters of constructors", "Record"): 2,
        ("parameters of constructors", "Frozen"): 1,
    }


def test_the_largest_come_first(sizes, tmp_path, monkeypatch, capsys):
    for name, lines in (("short", 1), ("long", 30), ("middle", 7)):
        (tmp_path / f"{name}.py").write_text("a = 1\n" * lines)
    monkeypatch.setattr("sys.argv", ["sizes.py", str(tmp_path), "--num", "2"])
    sizes.main()
    said = capsys.readouterr().out.split()
    assert said == ["lines", "of", "files:", "30", f"{tmp_path}/long.py", "7", f"{tmp_path}/middle.py"]
