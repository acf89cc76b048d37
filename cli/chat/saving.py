"""Saving: writes each message to the transcript at once. After a disk error it warns once and tries again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cli.chat.dialogue import Dialogue, Message
from cli.chat.transcript import Line, SavedChat, Transcript, Transcripts, said


class Saving:
    """Keeps a dialogue and its file equal. The first message creates the file.

    A file with an answer never becomes empty.
    """

    def __init__(self, transcripts: Transcripts, model: str, dialogue: Dialogue, warn: Callable[[str], None]) -> None:
        self.transcripts = transcripts
        self.name: str | None = None
        self._model = model
        self._dialogue = dialogue
        self._warn = warn
        self._transcript: Transcript | None = None
        self._is_question_alone = False
        self._unwritten: list[Line] = []
        self._warned = False

    @property
    def chat_id(self) -> str | None:
        """The id of the chat on disk; None before its first message."""
        return None if self._transcript is None else self._transcript.path.stem

    @property
    def is_behind(self) -> bool:
        """Whether some lines could not be written."""
        return bool(self._unwritten)

    def begin(self, dialogue: Dialogue) -> None:
        """Switch to a new chat; the old file stays unchanged."""
        self.close()
        self._dialogue = dialogue
        self.name = None

    def go_on(self, saved: SavedChat) -> None:
        """Switch to a saved chat. Raises TranscriptError if its file cannot be written; then a copy is written."""
        self.begin(saved.dialogue)
        self.name = saved.name
        self._transcript = self.transcripts.go_on(saved)

    def add(self, message: Message, *, in_place_of: int | None = None, **details: Any) -> None:
        """Write the dialogue's new message; with `in_place_of` it replaces the messages from that index."""
        is_first = self._transcript is None
        cut: list[Line] = [] if in_place_of is None else [{"keep": in_place_of}]
        self._write(*cut, said(message, **details))
        self._is_question_alone = message.role == "user" and (is_first or self._is_question_alone)

    def keep(self, count: int) -> None:
        """Write that the dialogue was cut to `count` messages.

        At 0 the file stays unchanged and the next message creates another; a file with only an unanswered message is
        deleted.
        """
        if count:
            self._write({"keep": count})
            return
        if self._is_question_alone and self._transcript is not None:
            with suppress(OSError):
                self._transcript.remove()
        self.close()

    def save(self) -> None:
        """Write all unwritten lines; create the file if there is none."""
        if self._transcript is None or self._unwritten:
            self._write()

    def set(self, **values: str | None) -> None:
        """Write a new system message, name or model."""
        self.name = values.get("name", self.name)
        self._model = values.get("model") or self._model
        if self._transcript is not None:
            self._write(values)

    def close(self) -> None:
        """Close the file."""
        if self._transcript is not None:
            self.save()
            self._transcript.close()
        self._transcript = None
        self._unwritten.clear()
        self._is_question_alone = False

    def _write(self, *lines: Line) -> None:
        """Append the unwritten lines and these; a new file gets the whole dialogue."""
        self._unwritten += lines
        try:
            if self._transcript is None:
                self._transcript = self.transcripts.new(self._model, self._dialogue, self.name)
            else:
                self._transcript.append(*self._unwritten)
        except OSError as error:
            if not self._warned:
                reason = error.strerror or error
                self._warn(f"not saved: {reason} ({self.transcripts.directory}); the next message tries again")
            self._warned = True
        else:
            self._unwritten.clear()
            self._warned = False
