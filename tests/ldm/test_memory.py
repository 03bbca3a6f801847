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


def test_the_c_library_takes_it():
    memory.keep_freed_memory()
    memory.return_freed_memory()
