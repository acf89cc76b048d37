"""Dialogue: the messages of a chat, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cli.chat.thinking import PLAIN, ThoughtAndAnswer, split_thinking
from mlx_moe.text.dialects import Dialect

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. Answers have a finish reason and the dialect of the model that wrote them."""

    role: Role
    text: str
    finish_reason: str | None = None
    dialect: Dialect = PLAIN

    @property
    def parts(self) -> ThoughtAndAnswer:
        """The thought and the answer."""
        if self.role == "user":
            return ThoughtAndAnswer("", self.text)
        return split_thinking(self.text, self.dialect)

    @property
    def is_marked(self) -> bool:
        """Whether the text has more than the answer: a thought, or marks of the dialect."""
        return self.parts.answer != self.text


@dataclass(slots=True)
class Dialogue:
    """A system message and turns, in order."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def for_template(self, count: int, dialect: Dialect, apart: bool) -> list[dict[str, str]]:
        """Return the first `count` messages in the form of the chat template of a model that speaks `dialect`.

        Thoughts are between its markers in the content or, if `apart`, in `reasoning_content`.
        """
        listed = [_for_template(message, dialect, apart) for message in self.messages[:count]]
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


def _for_template(message: Message, dialect: Dialect, apart: bool) -> dict[str, str]:
    parts = message.parts
    if not parts.thinking:
        return {"role": message.role, "content": parts.answer}
    if apart:
        return {"role": message.role, "content": parts.answer, "reasoning_content": parts.thinking.strip("\n")}
    if message.dialect == dialect:
        return {"role": message.role, "content": message.text}
    markers = dialect.markers
    return {"role": message.role, "content": f"{markers.open}\n{parts.thinking}\n{markers.close}\n\n{parts.answer}"}
