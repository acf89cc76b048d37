"""Dialogue: the messages of a chat, in memory. Knows nothing of models, files or the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cli.chat.thinking import USUAL, ThoughtAndAnswer, split_thinking
from mlx_moe.text.thought import ThoughtMarkers

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. Answers say why they ended, and which markers stand around a thought in their text."""

    role: Role
    text: str
    finish_reason: str | None = None
    markers: ThoughtMarkers = USUAL

    @property
    def parts(self) -> ThoughtAndAnswer:
        """What was thought, and what was said."""
        if self.role == "user":
            return ThoughtAndAnswer("", self.text, 0)
        return split_thinking(self.text, self.markers)

    @property
    def thinks(self) -> bool:
        """Whether it begins with a thought, an empty one included."""
        return self.parts.answer_start != 0


@dataclass(slots=True)
class Dialogue:
    """A system message and turns, in order."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def for_template(self, count: int, markers: ThoughtMarkers, apart: bool) -> list[dict[str, str]]:
        """Return the first `count` messages as a chat template takes them.

        Thoughts stand between the template's `markers`, or `apart` from the answers.
        """
        listed = [_for_template(message, markers, apart) for message in self.messages[:count]]
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


def _for_template(message: Message, markers: ThoughtMarkers, apart: bool) -> dict[str, str]:
    if not message.thinks:
        return {"role": message.role, "content": message.text}
    parts = message.parts
    if apart:
        thought, answer = parts.thinking.strip("\n"), parts.answer.lstrip("\n")
        return {"role": message.role, "content": answer, "reasoning_content": thought}
    return {"role": message.role, "content": f"{markers.open}{parts.thinking}{markers.close}{parts.answer}"}
