"""A unit of systemd as tests read it."""

import shlex


def words(line: str) -> list[str]:
    """Return the words of a line as systemd reads it: quotes and backslashes, then $$ and %%."""
    return [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(line)]


def value(text: str, key: str) -> str:
    """Return the value of a key."""
    return next(line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}="))
