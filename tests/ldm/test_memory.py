import platform
import subprocess
import sys

import pytest

from ldm import memory


@pytest.mark.parametrize("library", ["glibc", "musl", ""])
def test_only_glibc_is_told(library, monkeypatch):
    told = []
    process = type(
        "Process",
        (),
        {
            "mallopt": staticmethod(lambda *option: told.append(option)),
            "malloc_trim": staticmethod(lambda padding: told.append("trim")),
        },
    )
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: process)
    memory.keep_freed_memory()
    memory.return_freed_memory()
    assert told == ([(-4, 0), (-1, 2**31 - 1), "trim"] if library == "glibc" else [])


PROGRAM = """
import sys
from pathlib import Path
from resource import getpagesize
from ldm import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize() >> 20

if sys.argv[1] == "keep":
    memory.keep_freed_memory()
before = resident()
block = b"1" * (100 << 20)
held = resident() - before
del block
freed = resident() - before
memory.return_freed_memory()
print(held, freed, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
@pytest.mark.parametrize(("way", "kept"), [("keep", True), ("plain", False)])
def test_a_process_keeps_what_it_frees_until_it_is_to_return_it(way, kept):
    """MB of a block of 100 MB that the process has: while it is held, after it is freed, and at the end."""
    command = [sys.executable, "-c", PROGRAM, way]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    held, freed, returned = map(int, said.split())
    assert held >= 95 and returned <= 10
    assert (freed >= 95) == kept and (freed <= 10) != kept
