"""Pages: memory that the system provides at once, rather than page by page as each is first written."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys

_MADV_POPULATE_WRITE = 23
"""Linux 5.14. Source: madvise(2)."""


def populate(memory: memoryview) -> None:
    """Have Linux provide all pages of a buffer that is to be filled: a page fault for each costs more than the reading.

    Elsewhere, and where Linux is too old, nothing happens: the pages come one by one, as they are written.
    """
    if sys.platform != "linux":
        return
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE  # others may own the rest of the first and the last page
    end = (address + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end:
        _libc().madvise(start, end - start, _MADV_POPULATE_WRITE)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc
