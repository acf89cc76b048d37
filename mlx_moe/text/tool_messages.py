"""ToolMessages: renders conversations with tools, calls and results, in the form that a model's chat template takes.

Templates differ in what they know: tools or not, arguments as text or as an object, a call without content as a key
that is absent, null or empty. What a template does is found out by rendering a small conversation once. What it does
not know is written into the messages as text, calls in the model's own dialect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from mlx_moe.errors import InvalidRequestError, TemplateError
from mlx_moe.text.dialects import Definition, Dialect
from mlx_moe.text.message_text import message_text
from mlx_moe.text.thought import ThoughtMarkers
from mlx_moe.text.tool_call import called

Message: TypeAlias = dict[str, Any]

_PROBE_TEXT = '{"probe_key": "probe value"}'
_PROBE_RESULT = "probe result"
_PROBE_ABOUT = "probe description"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_call",
        "description": _PROBE_ABOUT,
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}
_LEFT_OUT = object()


class Template(Protocol):
    """What renders a conversation: a chat template, or code in its place."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        keep_null: bool = False,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation, of whose messages keys that are None are left out unless `keep_null`.

        Raises:
            InvalidRequestError: messages or variables cannot be rendered at all.
            TemplateError: the template refused the messages or failed.
        """

    def takes_thoughts_apart(self, markers: ThoughtMarkers) -> bool:
        """Whether thoughts of earlier turns belong in `reasoning_content` instead of `content`, between `markers`."""


class ToolMessages:
    """Renders conversations with tools by one template."""

    def __init__(self, template: Template, dialect: Dialect) -> None:
        self._template = template
        self._dialect = dialect

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Definition] | None = None,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation; without tools and calls exactly what the template makes of it.

        Messages have the form of OpenAI's API: `tool_calls` in those of the model, results in those of role `tool`.

        Raises:
            InvalidRequestError: a message or tool is not an object, `tool_calls` is not a list, a call has no name, or
                its arguments are not a JSON object; and as the template.
            TemplateError: as the template.
        """
        if not isinstance(tools, list | tuple | None) or not all(isinstance(tool, Mapping) for tool in tools or ()):
            raise InvalidRequestError(f"tools must be a list of objects, got {str(tools)[:80]}")
        if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
            raise InvalidRequestError(f"messages must be a list of objects, got {str(messages)[:80]}")
        if any(not isinstance(message.get("tool_calls"), list | tuple | None) for message in messages):
            raise InvalidRequestError("tool_calls must be a list of calls")
        keep_null = False
        if any(message.get("tool_calls") or message.get("role") == "tool" for message in messages):
            if (form := self._form) is None:
                messages = self._as_text(messages)
            else:
                messages, keep_null = [form.apply(message) for message in messages], form.keeps_null
        if tools and not self._knows_tools:
            messages, tools = self._told(messages, tools), None
        return self._template.render(messages, add_generation_prompt, keep_null=keep_null, tools=tools, **variables)

    @cached_property
    def _knows_tools(self) -> bool:
        return _PROBE_ABOUT in self._rendered([{"role": "user", "content": "Hello"}], keep_null=False)

    @cached_property
    def _form(self) -> _Form | None:
        """The first form in which the template writes a call and its result; None if there is none."""
        forms = [_Form(as_text, absent) for as_text in (True, False) for absent in (_LEFT_OUT, None, "")]
        return next((f for f in forms if f.is_written(self._rendered(f.probe(), keep_null=f.keeps_null))), None)

    def _rendered(self, messages: list[Message], *, keep_null: bool) -> str:
        try:
            return self._template.render(messages, keep_null=keep_null, tools=[_PROBE_TOOL])
        except TemplateError:
            return ""

    def _as_text(self, messages: Sequence[Mapping[str, Any]]) -> list[Message]:
        """Return messages of which calls and results are text: results in messages of the user."""
        texts: list[Message] = []
        for message in map(dict, messages):
            is_result = message.get("role") == "tool"
            if is_result:
                message = {"role": "user", "content": f"<tool_response>\n{message_text(message)}\n</tool_response>"}
            elif calls := message.pop("tool_calls", None):
                written = self._dialect.write([called(call) for call in calls])
                message["content"] = "\n\n".join(filter(None, (message_text(message), written)))
            if is_result and texts and texts[-1].get("role") == "user":
                texts[-1]["content"] = message_text(texts[-1]) + "\n" + message["content"]
            else:
                texts.append(message)
        return texts

    def _told(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Definition]) -> list[Message]:
        """Return messages whose first, the system's, describes the tools."""
        listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
        example = self._dialect.write([("TOOL_NAME", '{"PARAMETER": "VALUE"}')])
        text = (
            "You can use these tools. Each line defines one: its name, what it does, and the JSON schema of its "
            f"parameters.\n\n{listed}\n\nTo call a tool, write exactly this, with its name and your arguments, then "
            f"wait for the result; several calls may follow each other:\n\n{example}"
        )
        if messages and messages[0].get("role") == "system":
            first, *rest = messages
            return [{**first, "content": f"{message_text(first)}\n\n{text}".lstrip()}, *map(dict, rest)]
        return [{"role": "system", "content": text}, *map(dict, messages)]


class _Form:
    """How a template takes a call: its arguments as text, and `absent` as the content that a call does not have."""

    def __init__(self, as_text: bool, absent: object) -> None:
        self.keeps_null = absent is None
        self._as_text = as_text
        self._absent = absent

    def probe(self) -> list[Message]:
        """Return a conversation with a call and its result."""
        call_id = "functions.probe_call:0"
        function = {"name": "probe_call", "arguments": _PROBE_TEXT}
        call = {"role": "assistant", "content": None, "tool_calls": [{"id": call_id, "function": function}]}
        result = {"role": "tool", "name": "probe_call", "tool_call_id": call_id, "content": _PROBE_RESULT}
        return [{"role": "user", "content": "Hello"}, self.apply(call), result]

    def is_written(self, text: str) -> bool:
        """Whether a rendering of `probe` has the call and its result, the arguments not as Python or quoted JSON."""
        has_arguments = _PROBE_TEXT in text or (not self._as_text and "probe_key" in text and "'probe_key'" not in text)
        return has_arguments and text.count("probe_call") > 1 and _PROBE_RESULT in text

    def apply(self, message: Mapping[str, Any]) -> Message:
        """Return a message in this form. Keys that are None are left out."""
        formed = {key: value for key, value in message.items() if value is not None}
        if not formed.get("tool_calls"):
            return formed
        calls = []
        for call in message["tool_calls"]:
            name, text = called(call)
            arguments = text if self._as_text else json.loads(text)
            calls.append({"type": "function", **call, "function": {"name": name, "arguments": arguments}})
        formed["tool_calls"] = calls
        if "content" not in formed and self._absent is not _LEFT_OUT:
            formed["content"] = self._absent
        return formed
