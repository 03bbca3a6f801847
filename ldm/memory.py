"""How the process keeps memory, where the C library is glibc (Linux); elsewhere nothing happens."""

import ctypes
import platform

MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees for what it allocates next.

    Else maps above 32 MB, and the top of the heap, go back to the system at once, which clears every page of
    them anew. Memory stays at its peak until the process ends, or `return_freed_memory`.
    """
    if platform.libc_ver()[0] == "glibc":
        for option, value in MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)


def return_freed_memory() -> None:
    """Give memory that lies free in this process back to the system."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
