"""Writing: the tokens of an answer and its prompt, from which the answer can continue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cli.backend import Backend
from cli.begun_answer import begun_answer
from cli.chat.dialogue import Dialogue


@dataclass(slots=True)
class Writing:
    """An answer in tokens.

    `opening`: the start of the answer's text if the prompt already ends with it (the marker of a model that thinks
    first). `seed`: the seed of the tokens so far; with it a stopped answer continues as if it had not been stopped.
    """

    prompt_ids: tuple[int, ...]
    opening: str
    answer_ids: list[int] = field(default_factory=list)
    seed: int | None = None

    @property
    def input_ids(self) -> tuple[int, ...]:
        """All tokens before the next one."""
        return (*self.prompt_ids, *self.answer_ids)


def begin(backend: Backend, dialogue: Dialogue, count: int, think: bool | None) -> Writing:
    """Return an empty answer to the first `count` messages."""
    variables: dict[str, Any] = {} if think is None else {"enable_thinking": think, "thinking": think}
    messages = dialogue.for_template(count, backend.dialect, backend.thoughts_apart)
    prompt_ids = tuple(backend.format_chat(messages, **variables))
    return Writing(prompt_ids, begun_answer(backend, prompt_ids))


def resume(backend: Backend, dialogue: Dialogue, think: bool | None) -> Writing:
    """Return the dialogue's last answer, encoded from its text."""
    writing = begin(backend, dialogue, len(dialogue.messages) - 1, think)
    text = dialogue.messages[-1].text.removeprefix(writing.opening)
    writing.answer_ids = backend.encode(text, add_special_tokens=False)
    return writing


def matches(backend: Backend, writing: Writing, text: str) -> bool:
    """Whether the tokens give exactly the answer's text; not so after a stop string or an incomplete character."""
    return backend.decode(writing.answer_ids) == text.removeprefix(writing.opening)
