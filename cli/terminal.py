"""Terminal: what the one on which this process writes can do, and how wide it is now."""

from __future__ import annotations

import os
from typing import TextIO


def columns(stream: TextIO) -> int:
    """Return the width of the terminal that a stream is."""
    return os.get_terminal_size(stream.fileno()).columns or 80  # 0: the terminal does not say


def moves_its_cursor() -> bool:
    """Whether it is one that follows escape sequences."""
    return os.environ.get("TERM", "") not in ("", "dumb", "unknown")
