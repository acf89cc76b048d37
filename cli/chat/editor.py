"""The person's text editor, for long messages."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cli.keyboard import ordinary_keyboard
from mlx_moe.errors import InvalidRequestError


def edit(text: str) -> str:
    """Open `text` in $VISUAL, $EDITOR or an editor found; return the edited text.

    Raises:
        InvalidRequestError: there is no editor, or it failed.
    """
    command = _command()
    with tempfile.TemporaryDirectory(prefix="moe-cluster-") as directory:
        path = Path(directory, "message.md")
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            with ordinary_keyboard():
                code = subprocess.call([*command, str(path)])
        except OSError as error:
            raise InvalidRequestError(
                f"cannot start the editor {command[0]!r} ({error.strerror}); set $EDITOR"
            ) from error
        if code != 0:
            raise InvalidRequestError(f"the editor {command[0]!r} ended with code {code}; the message was not sent")
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\n")


def _command() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        try:
            if words := shlex.split(os.environ.get(variable, "")):
                return words
        except ValueError as error:
            raise InvalidRequestError(f"${variable} is not a command: {error}") from error
    if not sys.stdin.isatty():
        raise InvalidRequestError("an editor needs a terminal; set $EDITOR to one that does not")
    for name in ("nano", "vim", "vi"):
        if found := shutil.which(name):
            return [found]
    raise InvalidRequestError("no editor found; set $EDITOR")
