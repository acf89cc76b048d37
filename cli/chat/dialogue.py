"""Dialogue: the messages of a chat, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cli.chat.thinking import USUAL, ThoughtAndAnswer, split_thinking
from mlx_moe.text.thought import ThoughtMarkers

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. Answers have a finish reason and the markers around a thought in their text."""

    role: Role
    text: str
    finish_reason: str | None = None
    markers: ThoughtMarkers = USUAL

    @property
    def parts(self) -> ThoughtAndAnswer:
        """The thought and the answer."""
        if self.role == "user":
            return ThoughtAndAnswer("", self.text, 0)
        return split_thinking(self.text, self.markers)

    @property
    def thinks(self) -> bool:
        """Whether the text begins with a thought, which may be empty."""
        return self.parts.answer_start != 0


@dataclass(slots=True)
class Dialogue:
    """A system message and turns, in order."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def for_template(self, count: int, markers: ThoughtMarkers, apart: bool) -> list[dict[str, str]]:
        """Return the first `count` messages in the form of a chat template.

        Thoughts are between `markers` in the content or, if `apart`, in `reasoning_content`.
        """
        listed = [_for_template(message, markers, apart) for message in self.messages[:count]]
        return listed if self.system is None else [{"role": "system", "content": self.system}, *listed]

    @property
    def last_answer(self) -> Message | None:
        """The last message, if it is an answer."""
        return self.messages[-1] if self.messages and self.messages[-1].role == "assistant" else None

    @property
    def unanswered(self) -> Message | None:
        """The last message, if it has no answer yet."""
        return self.messages[-1] if self.messages and self.messages[-1].role == "user" else None

    @property
    def last_question(self) -> int | None:
        """The index of the person's last message."""
        asked = [i for i, message in enumerate(self.messages) if message.role == "user"]
        return asked[-1] if asked else None

    @property
    def title(self) -> str:
        """The first message, shortened to one line."""
        first = next((" ".join(m.text.split()) for m in self.messages if m.role == "user"), "")
        return first if len(first) <= 60 else first[:59] + "…"


def _for_template(message: Message, markers: ThoughtMarkers, apart: bool) -> dict[str, str]:
    if not message.thinks:
        return {"role": message.role, "content": message.text}
    parts = message.parts
    if apart:
        thought, answer = parts.thinking.strip("\n"), parts.answer.lstrip("\n")
        return {"role": message.role, "content": answer, "reasoning_content": thought}
    return {"role": message.role, "content": f"{markers.open}{parts.thinking}{markers.close}{parts.answer}"}
