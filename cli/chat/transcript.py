"""Transcripts: chats on disk, one append-only file of JSON lines each.

The first line is {"chat": id, "model": …}. A message is {"role": …, "text": …}; one with marks of a dialect also has
the "dialect" and "thinking": [open, close] for the markers around a thought. {"system": …}, {"name": …} and
{"model": …} set values. {"keep": n} removes all messages but the first n. {"keep": 0} takes effect with the next
message: a file that ends with it still has its messages.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cli.chat import export
from cli.chat.dialogue import Dialogue, Message
from cli.chat.thinking import dialect_from, saved_dialect
from cli.chat.typed_path import typed_path
from mlx_moe.errors import InvalidRequestError

SIZE_LIMIT_BYTES = 64 * 2**20
SUFFIX = ".jsonl"
LISTED = 20
"""Maximum number of chats in a listing, newest first."""


class TranscriptError(InvalidRequestError):
    """A saved chat is damaged or missing."""

    code = "bad_transcript"


Line = dict[str, Any]


def said(message: Message, **details: Any) -> Line:
    """Return the line of a message."""
    reason = {} if message.finish_reason is None else {"finish_reason": message.finish_reason}
    written = saved_dialect(message.dialect) if message.is_marked else {}
    return {"role": message.role, "text": message.text, **written, **reason, **details}


@dataclass(frozen=True, slots=True)
class SavedChat:
    """A chat read from disk. `torn`: its last line is incomplete and was ignored."""

    path: Path
    model: str
    name: str | None
    dialogue: Dialogue
    size_bytes: int
    torn: bool = False

    @property
    def id(self) -> str:
        """Its id among the saved chats."""
        return self.path.stem

    @property
    def changed(self) -> datetime:
        """Time of the last write."""
        return datetime.fromtimestamp(self.path.stat().st_mtime)


class Transcript:
    """A chat's file, open for appending and locked against other processes."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def append(self, *lines: Line) -> None:
        """Append all lines or, after an error, none. Raises OSError."""
        at = datetime.now().isoformat(timespec="seconds")
        data = b"".join(json.dumps({**line, "at": at}).encode() + b"\n" for line in lines)
        size = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._fd)  # some file systems report a full disk only here
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def remove(self) -> None:
        """Delete the file. Raises OSError."""
        self.path.unlink()

    def close(self) -> None:
        """Close and unlock."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Transcripts:
    """The directory of saved chats."""

    directory: Path

    def new(self, model: str, dialogue: Dialogue, name: str | None = None) -> Transcript:
        """Create a file with the messages of `dialogue`. Raises OSError; then there is no file."""
        chat_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path = self.directory / f"{chat_id}{SUFFIX}"
        lines: list[Line] = [{"chat": chat_id, "model": model}]
        lines += [] if name is None else [{"name": name}]
        lines += [] if dialogue.system is None else [{"system": dialogue.system}]
        lines += [said(message) for message in dialogue.messages]
        transcript = Transcript(path, _open_locked(path, os.O_CREAT | os.O_EXCL))
        try:
            transcript.append(*lines)
        except OSError:
            transcript.remove()
            transcript.close()
            raise
        return transcript

    def go_on(self, saved: SavedChat) -> Transcript:
        """Open a saved chat for appending. Raises TranscriptError with the reason."""
        name = saved.name or saved.id
        if saved.path.parent != self.directory or saved.path.suffix != SUFFIX:
            raise TranscriptError(f"{saved.path} is not one of the saved chats")
        if saved.torn:
            raise TranscriptError(f"the last line of {name} is incomplete")
        try:
            fd = _open_locked(saved.path)
        except BlockingIOError:
            raise TranscriptError(f"{name} is open in another terminal") from None
        except OSError as error:
            raise TranscriptError(f"cannot write to {saved.path}: {error.strerror}") from error
        if os.fstat(fd).st_size != saved.size_bytes:
            os.close(fd)
            raise TranscriptError(f"{name} was changed by another terminal")
        return Transcript(saved.path, fd)

    def newest(self) -> list[Path]:
        """Return the files, the newest first."""
        paths = []
        with suppress(OSError):  # the directory does not exist yet
            for path in self.directory.glob(f"*{SUFFIX}"):
                with suppress(OSError):  # removed by another process
                    paths.append((path.stat().st_mtime, path))
        return [path for _, path in sorted(paths, reverse=True)]

    def listing(self) -> list[SavedChat | TranscriptError]:
        """Read the newest chats; a damaged one is listed as its error."""
        listed: list[SavedChat | TranscriptError] = []
        for path in self.newest()[:LISTED]:
            try:
                listed.append(read_transcript(path))
            except TranscriptError as error:
                listed.append(error)
        return listed

    def latest(self) -> SavedChat | None:
        """Read the newest chat. Raises TranscriptError if it is damaged."""
        paths = self.newest()
        return read_transcript(paths[0]) if paths else None

    def find(self, wanted: str) -> SavedChat:
        """Read a chat by its number in the listing, its name, its id, or the path of a transcript or .json export.

        Raises:
            TranscriptError: there is no such chat, or it is damaged.
        """
        paths = self.newest()
        if wanted.isdecimal() and 1 <= int(wanted) <= min(len(paths), LISTED):
            return read_transcript(paths[int(wanted) - 1])
        for path in paths:
            if path.stem == wanted:
                return read_transcript(path)
        for path in paths:
            with suppress(TranscriptError):
                if (saved := read_transcript(path)).name == wanted:
                    return saved
        path = typed_path(wanted)
        if os.path.isfile(path):
            return _read_export(path) if path.suffix.lower() == export.JSON_SUFFIX else read_transcript(path)
        raise TranscriptError(f"no saved chat is called {wanted!r}; /sessions lists them")


def read_transcript(path: Path) -> SavedChat:
    """Read a chat's file. Raises TranscriptError that names the damaged line."""
    data = _read(path)
    *lines, rest = data.split(b"\n")
    replay = _Replay()
    for number, line in enumerate(lines, start=1):
        try:
            replay.take(json.loads(line), first=number == 1)
        except (ValueError, RecursionError) as error:
            raise TranscriptError(
                f"{path} is damaged in line {number} of {len(lines)} ({error}). Correct or remove that line to load "
                f"the chat; nothing was changed"
            ) from error
    if not replay.model:
        raise TranscriptError(f"{path} is empty or not a chat")
    return SavedChat(path, replay.model, replay.name, replay.dialogue, len(data), torn=bool(rest))


def _read_export(path: Path) -> SavedChat:
    data = _read(path)
    try:
        model, dialogue = export.read_json(data)
    except (ValueError, RecursionError) as error:
        raise TranscriptError(f"{path} is not a chat that /export wrote: {error}") from error
    return SavedChat(path, model, None, dialogue, len(data))


def _read(path: Path) -> bytes:
    """Read a file up to the size limit. Raises TranscriptError."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise TranscriptError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > SIZE_LIMIT_BYTES:
        raise TranscriptError(f"{path} has more than {SIZE_LIMIT_BYTES:,} bytes: too large for a chat")
    return data


class _Replay:
    """Applies a file's lines in order. `take` raises ValueError for an invalid line."""

    def __init__(self) -> None:
        self.model = ""
        self.name: str | None = None
        self.dialogue = Dialogue()
        self._emptied = False

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
            self._emptied = keep == 0
            del self.dialogue.messages[keep or len(self.dialogue.messages) :]
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
        if self._emptied:
            self.dialogue.messages.clear()
            self._emptied = False
        self.dialogue.messages.append(Message(role, _string(line, "text"), reason, dialect_from(line)))


def _string(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    if not isinstance(value, str):
        raise ValueError(f'"{key}" is not text')
    return value


def _open_locked(path: Path, flags: int = 0) -> int:
    """Open a file for appending, locked, readable by its owner only. Raises BlockingIOError if it is locked."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
