"""Export: writes a chat as Markdown or JSON, and reads the JSON."""

from __future__ import annotations

import json
from typing import Any

from cli.chat.dialogue import Dialogue, Message
from cli.chat.thinking import PLAIN, dialect_from, saved_dialect

JSON_SUFFIX = ".json"


def as_json(model: str, dialogue: Dialogue) -> str:
    """Return {"model": …, "messages": [{"role": …, "content": …}, …]}, as in chat APIs.

    A thought is part of the content. "dialect", and "thinking" for the markers of a thought, say how the model wrote,
    unless a thought is between <think> and </think> and nothing else is marked.
    """
    messages: list[dict[str, Any]] = [] if dialogue.system is None else [{"role": "system", "content": dialogue.system}]
    for m in dialogue.messages:
        written = saved_dialect(m.dialect) if m.is_marked and m.dialect != PLAIN else {}
        messages.append({"role": m.role, "content": m.text, **written})
    return json.dumps({"model": model, "messages": messages}, indent=2) + "\n"


def as_markdown(model: str, dialogue: Dialogue) -> str:
    """Return a page with a heading for each turn, and thoughts as quotations."""
    system = [] if dialogue.system is None else [f"**System:** {dialogue.system}"]
    turns = [f"## {'You' if m.role == 'user' else model}\n\n{_page(m)}" for m in dialogue.messages]
    return "\n\n".join([*system, *turns]) + "\n"


def _page(message: Message) -> str:
    """Return the text of a message, with the thought before it as a quotation."""
    parts = message.parts
    quoted = [f"> {line}".rstrip() for line in parts.thinking.strip().splitlines()]
    return "\n\n".join(filter(None, ("\n".join(quoted), parts.answer.strip())))


def read_json(text: str | bytes) -> tuple[str, Dialogue]:
    """Return the model ("" if missing) and the dialogue of an `as_json` text. Raises ValueError."""
    value: Any = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError('no object with "messages"')
    dialogue = Dialogue()
    for number, message in enumerate(value["messages"]):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(content, str):
            raise ValueError(f'messages[{number}] has no text as "content"')
        if role == "system" and number == 0:
            dialogue.system = content
        elif role in ("user", "assistant"):
            dialogue.messages.append(Message(role, content, dialect=dialect_from(message)))
        else:
            raise ValueError(f'messages[{number}] has "role" {str(role)[:20]!r}')
    if not dialogue.messages:
        raise ValueError("no messages")
    model = value.get("model", "")
    return model if isinstance(model, str) else "", dialogue
