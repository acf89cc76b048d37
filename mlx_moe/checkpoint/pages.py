"""Pages: lets Linux allocate all pages of a buffer at once instead of one by one at the first write."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys

_MADV_POPULATE_WRITE = 23
"""Linux 5.14. Source: madvise(2)."""


def populate(memory: memoryview) -> None:
    """Allocate all pages of a buffer before it is filled: a page fault for each costs more than reading the data.

    Does nothing on other systems and on older versions of Linux, which allocate pages as they are written.
    """
    if sys.platform != "linux":
        return
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE  # the first and last page may contain other data too
    end = (address + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end:
        _libc().madvise(start, end - start, _MADV_POPULATE_WRITE)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc
