"""Printable: texts of other machines, which may be printed on a terminal and written to logs."""

from __future__ import annotations

MAX_ERROR = 4000
"""Characters of an error's message: gRPC carries it in a header, which has 8 KiB."""

MAX_REASON = 300


def is_printable(text: str, most: int) -> bool:
    """Whether a text has at most `most` characters, none of which controls a terminal or has no form."""
    return len(text) <= most and text.isprintable()


def printable(text: str, most: int) -> str:
    """Return a text of at most `most` characters; those that control a terminal, except the ends of lines, as "?"."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text[:most])
