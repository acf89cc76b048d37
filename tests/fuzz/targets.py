"""Targets: every parser of bytes from outside: of files of models, of the hub, of people, and of other nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import bodies, files, messages
from tests.fuzz.fuzzing import Target

NAMES = (*files.NAMES, *messages.NAMES, *bodies.NAMES)


def targets(directory: Path) -> Iterator[Target]:
    """Yield all targets; those that read files write them to a directory."""
    yield from files.targets(directory)
    yield from messages.targets(directory)
    yield from bodies.targets(directory)
