"""Options of the C library's memory allocator; they apply to glibc (Linux) and do nothing elsewhere."""

import ctypes
import platform

MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory in this process for later allocations.

    By default glibc returns blocks above 32 MB, and the top of the heap, to the system at once. The system
    then has to clear every page again at the next allocation. With this option the process stays at its peak
    memory until it ends or calls `return_freed_memory`.
    """
    if platform.libc_ver()[0] == "glibc":
        for option, value in MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)


def return_freed_memory() -> None:
    """Return this process's free memory to the system."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
