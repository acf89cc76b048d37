"""A picture of a terminal in which the demo runs: python -m bench.terminal_picture [FILE.svg].

Runs `moe-cluster demo` on a pseudo-terminal, asks a question in its chat, and draws the terminal's screen.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import groupby
from pathlib import Path

import pexpect
import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

FIGURE = Path(__file__).parent / "figures" / "demo.svg"
QUESTION = "What is an expert?"
COLUMNS, ROWS = 80, 26
TIMEOUT_S = 120.0

CURSOR_QUERY = "\x1b[6n"
COLORS = {name: name for name in ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")}
COLORS |= {f"bright{name}": f"bright_{name}" for name in COLORS}
COLORS |= {"brown": "yellow", "brightbrown": "bright_yellow"}
"""Rich's names of the colors, by pyte's names; pyte gives all others as six hex digits."""


class Terminal:
    """A child process on a pseudo-terminal, and the screen that its output draws."""

    def __init__(self, command: list[str], home: str) -> None:
        environment = os.environ | {"MOE_CLUSTER_HOME": home, "TERM": "xterm-256color"}
        self._child = pexpect.spawn(
            command[0], command[1:], dimensions=(ROWS, COLUMNS), env=environment, encoding="utf-8", timeout=TIMEOUT_S
        )
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.Stream(self._screen)

    def type(self, keys: str) -> None:
        """Type keys."""
        self._child.send(keys)

    def until(self, is_shown: Callable[[str], bool]) -> None:
        """Read output until the screen's text fulfils a condition. Raises pexpect.TIMEOUT."""
        while not is_shown("\n".join(self._screen.display)):
            output = self._child.read_nonblocking(1 << 16, TIMEOUT_S)
            self._stream.feed(output)
            if CURSOR_QUERY in output:
                self.type(f"\x1b[{self._screen.cursor.y + 1};{self._screen.cursor.x + 1}R")

    def text(self) -> Text:
        """Return what the screen shows, in its colors."""
        rows = ([self._screen.buffer[row][column] for column in range(COLUMNS)] for row in range(ROWS))
        runs = ((("".join(char.data for char in run), style) for style, run in groupby(row, _style)) for row in rows)
        return Text("\n").join(Text.assemble(*row) for row in runs)

    def close(self) -> None:
        """Leave the chat and wait until its nodes have ended."""
        self._child.sendeof()
        self._child.expect(pexpect.EOF)


def main(path: Path) -> None:
    """Run the demo and write the picture."""
    with (
        tempfile.TemporaryDirectory(prefix="picture-") as home,
        closing(Terminal([sys.executable, "-m", "cli", "demo"], home)) as terminal,
    ):
        terminal.until(lambda text: "3/3 nodes" in text)
        terminal.type(QUESTION + "\r")
        terminal.until(lambda text: "Ctrl-C stops" in text)
        terminal.until(lambda text: "tok/s" in text and "Ctrl-C stops" not in text)
        screen = terminal.text()
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text("$ moe-cluster demo", style="bold"), screen, sep="\n")
        svg = console.export_svg(title="moe-cluster demo", theme=SVG_EXPORT_THEME, unique_id="demo")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))  # fonts of another server


def _style(char: Char) -> Style:
    color = None if char.fg == "default" else COLORS.get(char.fg, f"#{char.fg}")
    return Style(color=color, bold=char.bold, italic=char.italics, underline=char.underscore, reverse=char.reverse)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURE)
