"""ChatTemplate: turns a conversation into the text that the model reads, in a child process with limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_moe.errors import InvalidRequestError, TemplateError
from mlx_moe.text.text_process import SHARED, TextProcess
from mlx_moe.text.thought import ThoughtMarkers

MAX_SOURCE_CHARACTERS = 1 << 20

_REASONING = ("reasoning_content", "thinking", "reasoning")
_READS_REASONING = re.compile(rf"""[.'"]({"|".join(_REASONING)})\b""")
"""Matches `message.thinking`, `message['thinking']` and `message.get('thinking')`, not a variable of that name."""

_MEDIA = ("image", "image_url", "video", "audio")
"""Keys of parts that are no text: templates of models that read images look for them, whatever the part's type is."""

_PROBE = "a thought of an earlier turn"


class ChatTemplate:
    """A jinja2 template, the special tokens that it may use (`bos_token`, ...), and the process that renders it.

    Raises:
        TemplateError: the template is too large. An invalid template fails only when it is rendered.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], process: TextProcess = SHARED) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise TemplateError(
                f"the chat template has {len(source):,} characters; the limit is {MAX_SOURCE_CHARACTERS:,}"
            )
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._process = process

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        keep_null: bool = False,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation, byte for byte that of transformers' `apply_chat_template`.

        As in transformers, keys of a message that are None are left out, unless `keep_null`. The model's earlier
        thoughts are passed under all names that templates use for them.

        Raises:
            InvalidRequestError: messages or variables cannot be written as JSON, or are too large.
            TemplateError: the template refused the messages, is invalid, or exceeded its limits.
        """
        values = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            **variables,
            "messages": [_message(message, keep_null) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        return self._process.render(self.source, values)

    def takes_thoughts_apart(self, markers: ThoughtMarkers) -> bool:
        """Whether thoughts of earlier turns belong in `reasoning_content` instead of `content`.

        False for templates that know no such key and remove the thought from `content` themselves.
        """
        if _READS_REASONING.search(self.source):
            return True
        answer = f"{markers.open}{_PROBE}{markers.close}An answer."
        turns = (("user", "A question?"), ("assistant", answer), ("user", "Another?"))
        try:
            return _PROBE in self.render([{"role": role, "content": content} for role, content in turns])
        except TemplateError:
            return True


def _message(message: Mapping[str, Any], keep_null: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"a message must be a mapping with a role, got {type(message).__name__}")
    values = {key: value for key, value in message.items() if keep_null or value is not None}
    _require_text(values.get("content"))
    reasoning = next((values[name] for name in _REASONING if values.get(name) is not None), None)
    if reasoning is None:
        return values
    return {"thinking": reasoning, **values, "reasoning_content": reasoning}


def _require_text(content: object) -> None:
    """Raise InvalidRequestError for a part of a message that is not text."""
    for part in content if isinstance(content, list) else []:
        given = part if isinstance(part, Mapping) else {}
        kind = next((key for key in _MEDIA if key in given), given.get("type", "text"))
        if kind != "text":
            raise InvalidRequestError(
                f"a message has a part of type {str(kind)[:40]!r}, and models read only text here: send the message "
                f"without it"
            )
