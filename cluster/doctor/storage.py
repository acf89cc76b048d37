"""Storage: room and speed of the disks where models are kept, and what lies in the directories of this machine."""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.doctor.finding import Finding, Remark, State, finding
from cluster.home import Home
from mlx_moe.units import bytes_text

LITTLE_BYTES = 20 * 10**9
NOTHING_BYTES = 10**9
SLOW_BYTES_PER_S = 200e6

PROBE_BYTES = 64 << 20
PROBE_S = 0.4
BLOCK = 4 << 20

MAX_ENTRIES = 20_000
"""Files that are looked at in a directory."""

LEFTOVER = ".incomplete"
LEFTOVER_AGE_S = 24 * 3600.0
"""A download that is older was given up, or waits for the same command."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of a directory. `bytes_per_s` is measured; 0 if there is no large file to read."""

    directory: str
    free_bytes: int
    total_bytes: int
    bytes_per_s: float = 0.0


@dataclass(slots=True)
class Content:
    """What lies in a directory. `open_to_others` are private files that other users may read, `leftovers` old parts."""

    directory: str
    n_bytes: int = 0
    n_files: int = 0
    is_whole: bool = True
    open_to_others: list[str] = field(default_factory=list)
    leftover_bytes: int = 0
    leftovers: int = 0


def disks_finding(disks: Sequence[Disk]) -> Finding:
    """Judge the room and the speed of disks."""
    return finding("disk", _disk_remarks(disks))


def _disk_remarks(disks: Sequence[Disk]) -> Iterator[Remark]:
    for disk in disks:
        room = f"{bytes_text(disk.free_bytes)} of {bytes_text(disk.total_bytes)} free for {_short(disk.directory)}"
        state = State.OK if disk.free_bytes >= LITTLE_BYTES else State.WARNING
        state = State.PROBLEM if disk.free_bytes < NOTHING_BYTES else state
        yield Remark(
            room, state, "" if state is State.OK else "moe-cluster ls shows models, moe-cluster rm deletes them"
        )
        if disk.bytes_per_s:
            slow = disk.bytes_per_s < SLOW_BYTES_PER_S
            yield Remark(
                f"reads {disk.bytes_per_s / 1e9:.2f} GB/s{', which is slow' * slow}",
                State.WARNING if slow else State.OK,
                "keep models on the internal disk; MOE_CLUSTER_MODELS and HF_HOME name other directories"
                if slow
                else "",
            )


def directories_finding(contents: Sequence[Content]) -> Finding:
    """Judge sizes, permissions and leftovers of directories."""
    return finding("directories", _content_remarks(contents))


def _content_remarks(contents: Sequence[Content]) -> Iterator[Remark]:
    for content in contents:
        least, quoted = "" if content.is_whole else "at least ", shlex.quote(content.directory)
        yield Remark(
            f"{_short(content.directory)} has {least}{bytes_text(content.n_bytes)} in {content.n_files:,} files"
        )
        if content.open_to_others:
            names = ", ".join(content.open_to_others[:3]) + ", …" * (len(content.open_to_others) > 3)
            yield Remark(f"other users of this machine may read {names}", State.PROBLEM, f"chmod -R go-rwx {quoted}")
        if content.leftovers:
            yield Remark(
                f"{content.leftovers} downloads that did not finish in a day take {bytes_text(content.leftover_bytes)}",
                State.WARNING,
                f"find {quoted} -name '*{LEFTOVER}' -mtime +0 -delete",
            )


def _short(directory: str) -> str:
    home = str(Path.home())
    return f"~{directory.removeprefix(home)}" if directory.startswith(f"{home}/") else directory


def read_disks(directories: Sequence[Path]) -> list[Disk]:
    """Return the disks of directories, each once; the directories need not exist."""
    found: dict[int, Disk] = {}
    for directory in directories:
        existing = next(path for path in (directory, *directory.parents) if path.exists())
        with suppress(OSError):
            usage = psutil.disk_usage(str(existing))
            disk = Disk(str(directory), usage.free, usage.total, _read_speed(directory))
            known = found.get(existing.stat().st_dev)
            if known is None or (disk.bytes_per_s and not known.bytes_per_s):
                found[existing.stat().st_dev] = disk
    return list(found.values())


def _read_speed(directory: Path) -> float:
    """Return the rate at which a large weight file is read past the page cache; 0 if there is none."""
    for path in _files(directory):
        if path.suffix == ".safetensors" and path.stat().st_size >= PROBE_BYTES:
            with suppress(OSError):
                return _measured(path)
    return 0.0


def _measured(path: Path) -> float:
    with path.open("rb", buffering=0) as file:
        if hasattr(fcntl, "F_NOCACHE"):
            fcntl.fcntl(file.fileno(), fcntl.F_NOCACHE, 1)
        else:
            os.posix_fadvise(file.fileno(), 0, PROBE_BYTES, os.POSIX_FADV_DONTNEED)
        began, done = time.perf_counter(), 0
        while done < PROBE_BYTES and time.perf_counter() - began < PROBE_S:
            done += len(file.read(BLOCK))
        return done / (time.perf_counter() - began)


def read_content(directory: Path, *, is_private: bool = False, now_s: float | None = None) -> Content:
    """Return what lies in a directory. In a private one, nothing may be readable by other users."""
    content, now_s = Content(str(directory)), time.time() if now_s is None else now_s
    if is_private and directory.exists() and directory.stat().st_mode & 0o077:
        content.open_to_others.append(str(directory))
    for path in _files(directory):
        if content.n_files == MAX_ENTRIES:
            content.is_whole = False
            break
        with suppress(OSError):
            status = path.lstat()
            content.n_files += 1
            content.n_bytes += min(status.st_blocks * 512, status.st_size)
            if path.suffix == LEFTOVER and now_s - status.st_mtime > LEFTOVER_AGE_S:
                content.leftovers += 1
                content.leftover_bytes += status.st_blocks * 512
    return content


def private_files(home: Home) -> list[str]:
    """Return the files with keys or tokens of a home that other users may read."""
    files = (*_files(home.identity), *_files(home.authority), home.tokens, home.api_keys)
    return [str(path) for path in files if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]


def _files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        for name in names:
            yield Path(parent) / name
