"""Terminal: its width and capabilities."""

from __future__ import annotations

import os
from typing import TextIO


def columns(stream: TextIO) -> int:
    """Return the width of a stream's terminal."""
    return os.get_terminal_size(stream.fileno()).columns or 80  # 0: unknown


def moves_its_cursor() -> bool:
    """Whether the terminal supports escape sequences."""
    return os.environ.get("TERM", "") not in ("", "dumb", "unknown")
