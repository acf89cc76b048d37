"""Keyboard: no echo while output is shown; typed keys are kept."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

_LOCAL_FLAGS = 3
_CONTROL_CHARACTERS = 6
_LINES_AND_ECHO = termios.ICANON | termios.ECHO


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Turn off line mode, echo and Ctrl-Z in the block. Does nothing unless stdin and stdout are terminals."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    fd = sys.stdin.fileno()
    before, quiet = termios.tcgetattr(fd), termios.tcgetattr(fd)
    quiet[_LOCAL_FLAGS] &= ~_LINES_AND_ECHO
    quiet[_LOCAL_FLAGS] |= termios.NOFLSH  # Ctrl-C must not discard keys typed before it
    quiet[_CONTROL_CHARACTERS][termios.VSUSP] = bytes([os.fpathconf(fd, "PC_VDISABLE")])
    termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def ordinary_keyboard() -> Iterator[None]:
    """Turn line mode and echo on again in the block, for another program."""
    if not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before, ordinary = termios.tcgetattr(fd), termios.tcgetattr(fd)
    ordinary[_LOCAL_FLAGS] |= _LINES_AND_ECHO
    termios.tcsetattr(fd, termios.TCSADRAIN, ordinary)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
