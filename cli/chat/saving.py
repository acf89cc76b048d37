"""Saving: writes the chat to its transcript as it goes. Where the disk refuses, it says so once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cli.chat.dialogue import Dialogue, Message
from cli.chat.transcript import SavedChat, Transcript, Transcripts


class Saving:
    """Keeps one dialogue and its file the same. The file is made with the first message."""

    def __init__(self, transcripts: Transcripts, model: str, dialogue: Dialogue, warn: Callable[[str], None]) -> None:
        self.transcripts = transcripts
        self.name: str | None = None
        self._model = model
        self._dialogue = dialogue
        self._warn = warn
        self._transcript: Transcript | None = None
        self._refused = False

    @property
    def chat_id(self) -> str | None:
        """The id of the chat on disk; None before its first message."""
        return None if self._transcript is None else self._transcript.path.stem

    def begin(self, dialogue: Dialogue) -> None:
        """Turn to a new chat; the file so far is complete."""
        self.close()
        self._dialogue = dialogue
        self.name = None

    def go_on(self, saved: SavedChat) -> bool:
        """Turn to a saved chat; False if its own file cannot be written, so that a copy goes on."""
        self.begin(saved.dialogue)
        self.name = saved.name
        try:
            self._transcript = self.transcripts.go_on(saved)
        except OSError as error:
            self._refuse(error)
        return self._transcript is not None

    def add(self, message: Message, **details: Any) -> None:
        """Write a message that the dialogue just got."""
        if self._transcript is None:
            self._begin_file()
        else:
            self._write(lambda transcript: transcript.add_message(message, **details))

    def keep(self, count: int) -> None:
        """Write that the dialogue was cut to `count` messages."""
        self._write(lambda transcript: transcript.keep(count))

    def set(self, **values: str | None) -> None:
        """Write a new system message, name or model."""
        self.name = values.get("name", self.name)
        self._model = values.get("model") or self._model
        self._write(lambda transcript: transcript.set(**values))

    def close(self) -> None:
        """Close the file."""
        if self._transcript is not None:
            self._transcript.close()
            self._transcript = None

    def _begin_file(self) -> None:
        if self._refused:
            return
        try:
            self._transcript = self.transcripts.new(self._model, self._dialogue, self.name)
        except OSError as error:
            self._refuse(error)

    def _write(self, write: Callable[[Transcript], None]) -> None:
        if self._transcript is None:
            return
        try:
            write(self._transcript)
        except OSError as error:
            self._refuse(error)
            self.close()

    def _refuse(self, error: OSError) -> None:
        if not self._refused:
            self._warn(f"this chat is not saved: {self.transcripts.directory}: {error.strerror or error}")
        self._refused = True
