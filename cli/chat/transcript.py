"""Transcripts: chats on disk, one file of JSON lines each, only ever appended to.

Lines are {"chat": id, "model": …} at the top, then {"role": …, "text": …} as it is said, {"system": …},
{"name": …}, {"model": …}, and {"keep": n}: from here on only the first n messages count.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cli.chat.dialogue import Dialogue, Message
from mlx_moe.errors import InvalidRequestError

SIZE_LIMIT_BYTES = 64 * 2**20
LISTED = 20
"""Chats that a listing shows, newest first."""


class TranscriptError(InvalidRequestError):
    """A saved chat that is damaged or not there."""

    code = "bad_transcript"


@dataclass(frozen=True, slots=True)
class SavedChat:
    """A chat read from disk. `torn`: its last line was cut off while it was written, and is left out."""

    path: Path
    model: str
    name: str | None
    dialogue: Dialogue
    torn: bool

    @property
    def id(self) -> str:
        """Names it among the saved chats."""
        return self.path.stem

    @property
    def changed(self) -> datetime:
        """When it was last written to."""
        return datetime.fromtimestamp(self.path.stat().st_mtime)


class Transcript:
    """A chat's file, open for appending and locked: two terminals never write one chat."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def add_message(self, message: Message, **details: Any) -> None:
        """Append what was said."""
        reason = {} if message.finish_reason is None else {"finish_reason": message.finish_reason}
        self._append({"role": message.role, "text": message.text, **reason, **details})

    def keep(self, count: int) -> None:
        """Append that only the first `count` messages count."""
        self._append({"keep": count})

    def set(self, **values: str | None) -> None:
        """Append a new system message, name or model."""
        self._append(values)

    def close(self) -> None:
        """Close and unlock."""
        os.close(self._fd)

    def _append(self, line: dict[str, Any]) -> None:
        """Append a line in one write: a reader sees all of it, or a line without an end. Raises OSError."""
        data = json.dumps({**line, "at": datetime.now().isoformat(timespec="seconds")}).encode() + b"\n"
        if os.write(self._fd, data) != len(data):
            raise OSError(f"{self.path}: the disk took only a part of a message")


@dataclass(frozen=True, slots=True)
class Transcripts:
    """The directory of saved chats."""

    directory: Path

    def new(self, model: str, dialogue: Dialogue, name: str | None = None) -> Transcript:
        """Begin a file, with what `dialogue` already has. Raises OSError."""
        chat_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path = self.directory / f"{chat_id}.jsonl"
        transcript = Transcript(path, _open_locked(path, os.O_CREAT | os.O_EXCL))
        transcript.set(chat=chat_id, model=model)
        if name is not None:
            transcript.set(name=name)
        if dialogue.system is not None:
            transcript.set(system=dialogue.system)
        for message in dialogue.messages:
            transcript.add_message(message)
        return transcript

    def go_on(self, saved: SavedChat) -> Transcript | None:
        """Open a saved chat to append to it; None if another terminal has it open or its end is torn."""
        if saved.torn or saved.path.parent != self.directory:
            return None
        try:
            return Transcript(saved.path, _open_locked(saved.path))
        except BlockingIOError:
            return None

    def newest(self) -> list[Path]:
        """Return the files, the one last written to first."""
        try:
            paths = [(path.stat().st_mtime, path) for path in self.directory.glob("*.jsonl")]
        except OSError:
            return []
        return [path for _, path in sorted(paths, reverse=True)]

    def listing(self) -> list[SavedChat | TranscriptError]:
        """Read the newest chats; damaged ones are listed as their errors."""
        listed: list[SavedChat | TranscriptError] = []
        for path in self.newest()[:LISTED]:
            try:
                listed.append(read_transcript(path))
            except TranscriptError as error:
                listed.append(error)
        return listed

    def latest(self) -> SavedChat | None:
        """Read the chat last written to. Raises TranscriptError if it is damaged."""
        paths = self.newest()
        return read_transcript(paths[0]) if paths else None

    def find(self, wanted: str) -> SavedChat:
        """Read a chat by its number in the listing, its name, its id or a path.

        Raises:
            TranscriptError: there is none, or it is damaged.
        """
        paths = self.newest()
        if wanted.isdecimal() and 1 <= int(wanted) <= min(len(paths), LISTED):
            return read_transcript(paths[int(wanted) - 1])
        for path in paths:
            if path.stem == wanted:
                return read_transcript(path)
        for saved in self.listing():
            if isinstance(saved, SavedChat) and saved.name == wanted:
                return saved
        path = Path(wanted).expanduser()
        if path.is_file():
            return read_transcript(path.absolute())
        raise TranscriptError(f"no saved chat is called {wanted!r}; /sessions lists them")


def read_transcript(path: Path) -> SavedChat:
    """Read a chat's file. Raises TranscriptError naming the line that is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise TranscriptError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > SIZE_LIMIT_BYTES:
        raise TranscriptError(f"{path} has more than {SIZE_LIMIT_BYTES} bytes; it is not a chat")
    *lines, rest = data.split(b"\n")
    replay = _Replay()
    for number, line in enumerate(lines, start=1):
        try:
            replay.take(json.loads(line), first=number == 1)
        except (ValueError, RecursionError) as error:
            raise TranscriptError(
                f"{path} is damaged in line {number} of {len(lines)} ({error}); nothing was changed. "
                f"Mend or remove that line to load it"
            ) from error
    if not replay.model:
        raise TranscriptError(f"{path} is empty or not a chat")
    return SavedChat(path, replay.model, replay.name, replay.dialogue, torn=bool(rest))


class _Replay:
    """Applies a file's lines in order. `take` raises ValueError for a line that is none of ours."""

    def __init__(self) -> None:
        self.model = ""
        self.name: str | None = None
        self.dialogue = Dialogue()

    def take(self, line: Any, first: bool) -> None:
        if not isinstance(line, dict):
            raise ValueError("not an object")
        if first and "chat" not in line:
            raise ValueError('no "chat" in the first line')
        if "role" in line:
            self._take_message(line)
        elif "keep" in line:
            keep = line["keep"]
            if not isinstance(keep, int) or not 0 <= keep <= len(self.dialogue.messages):
                raise ValueError(f'"keep" is {keep!r}, with {len(self.dialogue.messages)} messages before it')
            del self.dialogue.messages[keep:]
        elif "system" in line:
            self.dialogue.system = None if line["system"] is None else _string(line, "system")
        if "name" in line:
            self.name = _string(line, "name")
        if "model" in line:
            self.model = _string(line, "model")

    def _take_message(self, line: dict[str, Any]) -> None:
        role = line["role"]
        if role not in ("user", "assistant"):
            raise ValueError(f'"role" is {str(role)[:20]!r}')
        reason = _string(line, "finish_reason") if "finish_reason" in line else None
        self.dialogue.messages.append(Message(role, _string(line, "text"), reason))


def _string(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    if not isinstance(value, str):
        raise ValueError(f'"{key}" is no text')
    return value


def _open_locked(path: Path, flags: int = 0) -> int:
    """Open for appending, for the owner alone. Raises BlockingIOError if another process has it open."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
