"""JSON file: reads untrusted JSON with limits on size and depth, and without duplicate keys."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from mlx_moe.checkpoint.regular_file import open_regular
from mlx_moe.errors import CheckpointError

MAX_BYTES = 64 << 20
MAX_DEPTH = 64

_BETWEEN_BRACKETS = re.compile(r'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+"?+)++', re.DOTALL)
"""Strings and all else but brackets. Possessive, and a string may lack its end: so a search takes linear time."""

_STEPS = {"{": 1, "[": 1, "}": -1, "]": -1}
_BLOCK = 1 << 16


def read(path: Path, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: the file is missing, not regular, too large, nested too deeply, not JSON, not an object, or
            has a key twice.
    """
    return parse(read_bytes(path, max_bytes), str(path), max_depth)


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return a regular file's bytes. Raises CheckpointError if it cannot be read or is larger than `max_bytes`."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointError(f"{path} is larger than the limit of {max_bytes:,} bytes")
    return data


def parse(data: bytes, source: str, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises CheckpointError, whose message names `source`."""
    try:
        text = data.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as exc:
        raise CheckpointError(f"{source} is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    if _is_deeper(text, max_depth):
        raise CheckpointError(f"{source} is nested deeper than {max_depth} levels")
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKeyError as exc:
        raise CheckpointError(f"{source} has the key {str(exc)[:200]!r} twice") from exc
    except ValueError as exc:  # JSONDecodeError, and integers of thousands of digits
        raise CheckpointError(f"{source} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} is not a JSON object but {type(value).__name__}")
    return value


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return values


def _is_deeper(text: str, max_depth: int) -> bool:
    """Whether brackets in `text`, without those inside strings, are nested deeper than `max_depth` levels."""
    brackets, depth = _BETWEEN_BRACKETS.sub("", text), 0
    for start in range(0, len(brackets), _BLOCK):
        depths = [*accumulate(map(_STEPS.__getitem__, brackets[start : start + _BLOCK]), initial=depth)]
        if max(depths) > max_depth:
            return True
        depth = depths[-1]
    return False
