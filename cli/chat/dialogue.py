"""Dialogue: the messages of a chat, in memory. Knows nothing of models, files or the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; answers say why they ended."""

    role: Role
    text: str
    finish_reason: str | None = None


@dataclass(slots=True)
class Dialogue:
    """A system message and turns, in order."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def for_template(self, count: int | None = None) -> list[dict[str, str]]:
        """Return the first `count` messages (all of them by default) as chat templates take them."""
        listed = [{"role": message.role, "content": message.text} for message in self.messages[:count]]
        return listed if self.system is None else [{"role": "system", "content": self.system}, *listed]

    @property
    def last_answer(self) -> Message | None:
        """The answer at the end, if the chat ends in one."""
        return self.messages[-1] if self.messages and self.messages[-1].role == "assistant" else None

    @property
    def unanswered(self) -> Message | None:
        """The message at the end, if it waits for an answer."""
        return self.messages[-1] if self.messages and self.messages[-1].role == "user" else None

    @property
    def last_question(self) -> int | None:
        """The index of the last thing the person said."""
        asked = [i for i, message in enumerate(self.messages) if message.role == "user"]
        return asked[-1] if asked else None

    @property
    def title(self) -> str:
        """The first thing said, shortened to one line."""
        first = next((" ".join(m.text.split()) for m in self.messages if m.role == "user"), "")
        return first if len(first) <= 60 else first[:59] + "…"
