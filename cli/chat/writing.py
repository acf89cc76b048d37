"""Writing: the tokens of an answer and of the prompt before it, all that is needed to go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cli.backend import Backend
from cli.chat.dialogue import Dialogue

PROMPT_ENDING = 64
"""Tokens at the end of a prompt that may hold a marker, each of them a byte at least."""


@dataclass(slots=True)
class Writing:
    """An answer in tokens.

    `opening` is text of the answer that its prompt already ends with: the marker of a model that thinks first.
    `seed` is that of the tokens so far; going on with it gives what an answer never stopped would have had.
    """

    prompt_ids: tuple[int, ...]
    opening: str
    answer_ids: list[int] = field(default_factory=list)
    seed: int | None = None

    @property
    def input_ids(self) -> tuple[int, ...]:
        """What the model has read when it writes the next token."""
        return (*self.prompt_ids, *self.answer_ids)


def begin(backend: Backend, dialogue: Dialogue, count: int, think: bool | None) -> Writing:
    """Return the writing of an answer to the first `count` messages, with no token yet."""
    variables: dict[str, Any] = {} if think is None else {"enable_thinking": think, "thinking": think}
    markers = backend.thought_markers
    messages = dialogue.for_template(count, markers, backend.thoughts_apart)
    prompt_ids = tuple(backend.format_chat(messages, **variables))
    ending = backend.decode(prompt_ids[-PROMPT_ENDING:], skip_special_tokens=False)
    return Writing(prompt_ids, ending[ending.rindex(markers.open) :] if ending.rstrip().endswith(markers.open) else "")


def resume(backend: Backend, dialogue: Dialogue, think: bool | None) -> Writing:
    """Return the writing of the dialogue's last answer, from its text."""
    writing = begin(backend, dialogue, len(dialogue.messages) - 1, think)
    text = dialogue.messages[-1].text.removeprefix(writing.opening)
    writing.answer_ids = backend.encode(text, add_special_tokens=False)
    return writing


def matches(backend: Backend, writing: Writing, text: str) -> bool:
    """Whether the tokens are all of an answer's text; not so after a stop string, or amid a character."""
    return backend.decode(writing.answer_ids) == text.removeprefix(writing.opening)
