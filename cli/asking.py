"""Asking: a question to the person at the terminal, answered by yes or no."""

from __future__ import annotations

import sys

from cli.keyboard import ordinary_keyboard
from cli.visible import visible


def ask(question: str) -> bool:
    """Return whether a person says yes; without a terminal nobody does."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{visible(question)} [y/N] ")
    sys.stderr.flush()
    with ordinary_keyboard():
        return sys.stdin.readline().strip().lower() in ("y", "yes")
