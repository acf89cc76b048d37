"""A process in a pseudo-terminal, its screen kept by a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

import pyte
import pytest

from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]

CTRL_C, CTRL_D = "\x03", "\x04"

# The child makes the terminal its own, or Ctrl-C would signal nobody.
LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A process in a terminal of 24 rows. `written` is all that came. Leaving the block kills it."""

    def __init__(self, home: Path, arguments: list[str], columns: int = 80) -> None:
        self.written = b""
        self._columns = columns
        self._screen = pyte.HistoryScreen(columns, 24, history=1000, ratio=1)
        self._stream = pyte.ByteStream(self._screen)
        self._fd, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = os.environ | {
            "MOE_CLUSTER_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, sys.executable, "-W", "error", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
        )
        os.close(child)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    @property
    def text(self) -> str:
        columns = range(self._columns)
        past = ["".join(row[x].data for x in columns).rstrip() for row in self._screen.history.top]
        return "\n".join([*past, *(line.rstrip() for line in self._screen.display)])

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def until(self, wanted: str, times: int = 1) -> str:
        """Wait until something is on the screen (`times` times); return all of it."""
        deadline = time.monotonic() + PATIENCE_S
        while self.text.count(wanted) < times:
            if time.monotonic() > deadline or not self._read(deadline):
                pytest.fail(f"{wanted!r} did not come; the screen is\n{self.text}")
        return self.text

    def end(self) -> int:
        """Wait until the process ended; return its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(deadline - time.monotonic(), 0))
        try:
            data = os.read(self._fd, 65536) if ready else b""
        except OSError:  # Linux: the other side is closed
            return False
        self.written += data
        self._stream.feed(data)
        if b"\x1b[6n" in data:  # where is the cursor?
            cursor = self._screen.cursor
            os.write(self._fd, f"\x1b[{cursor.y + 1};{cursor.x + 1}R".encode())
        return bool(data)
