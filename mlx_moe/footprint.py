"""Footprint: the memory of a process as the system counts it, and the limit that it sets for all of them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NO_LIMIT = 1 << 60

_RUSAGE_INFO_V0 = 0
_PHYS_FOOTPRINT = 9
"""The place of `ri_phys_footprint` among the 64-bit words of `rusage_info_v0`, of which the first two are the UUID."""
_RUSAGE_WORDS = 12


def footprint_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes; of one that has ended, 0.

    Linux: resident memory, as the OOM killer counts it. macOS: the physical footprint, as jetsam counts it, which
    has wired and compressed memory that the resident size lacks (untried on a Mac).
    """
    measure = _physical_footprint if sys.platform == "darwin" else _resident
    return sum(map(measure, pids))


def limited_bytes(budget_bytes: int) -> int:
    """Return a budget, or the limit of this process's control group if that is less."""
    for path in map(Path, _CGROUP_LIMITS):
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # none, or "max"
            continue
        return min(budget_bytes, limit) if limit < _NO_LIMIT else budget_bytes
    return budget_bytes


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _physical_footprint(pid: int) -> int:
    words = (ctypes.c_uint64 * _RUSAGE_WORDS)()
    libproc = ctypes.CDLL("/usr/lib/libproc.dylib")
    if libproc.proc_pid_rusage(pid, _RUSAGE_INFO_V0, ctypes.byref(words)):
        return _resident(pid)
    return int(words[_PHYS_FOOTPRINT])
