"""Asking: a question to the person at the terminal, answered by yes or no."""

from __future__ import annotations

import sys
import textwrap

from cli.keyboard import ordinary_keyboard
from cli.terminal import columns
from cli.visible import visible
from cluster.errors import ClusterError


class DeclinedError(ClusterError):
    """The person said no; the message says what stays unchanged."""

    code = "declined"


def ask(question: str, otherwise: str) -> bool:
    """Return True if the person says yes, False without a terminal.

    Raises:
        DeclinedError: the person said no; its message is `otherwise`.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(textwrap.fill(f"{visible(question)} [y/N]", columns(sys.stderr), break_long_words=False) + " ")
    sys.stderr.flush()
    with ordinary_keyboard():
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise DeclinedError(otherwise)
    return True
