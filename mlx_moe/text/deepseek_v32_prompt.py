"""DeepSeekV32Prompt: turns a conversation into DeepSeek-V3.2's prompt; its publisher gives code for it, no template.

The structure is the published one. The sentences that tell the model of its tools are our own.

Source: encoding/README.md and encoding_dsv32.py in deepseek-ai/DeepSeek-V3.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_moe.errors import InvalidRequestError, TemplateError
from mlx_moe.text.dialects.deepseek import DEEPSEEK_V32, DSML
from mlx_moe.text.message_text import message_text
from mlx_moe.text.thought import ThoughtMarkers
from mlx_moe.text.tool_call import called

_BEGIN = "<｜begin▁of▁sentence｜>"
_END = "<｜end▁of▁sentence｜>"
_USER = "<｜User｜>"
_ASSISTANT = "<｜Assistant｜>"
_THINK = "<think>"
_THOUGHT = "</think>"


class DeepSeekV32Prompt:
    """Renders conversations as a chat template does. `thinking` or `enable_thinking` False: answer at once."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        keep_null: bool = False,  # noqa: ARG002 - an absent content and None are the same here
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Return the prompt's text.

        Thoughts of earlier turns are left out; those since the last message of the user, between calls, stay.

        Raises:
            InvalidRequestError: a message is not a mapping, its content not text, or a call has no name or no JSON
                object of arguments.
            TemplateError: a message has a role that the model does not know.
        """
        turns = [(_role(message), message) for message in messages]
        if tools and "system" not in (role for role, _ in turns):
            turns.insert(0, ("system", {}))
        thinks = bool(variables.get("enable_thinking", variables.get("thinking", True)))
        last_question = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=-1)
        text = _BEGIN
        for index, (role, message) in enumerate(turns):
            begun = _THINK if thinks and index >= last_question else _THOUGHT
            if role == "system":
                text += message_text(message) + (f"\n\n{_told(tools)}" if tools else "")
            elif role == "user":
                text += f"{_USER}{message_text(message)}{_ASSISTANT}{begun}"
            elif role == "assistant":
                text += _answer(message, with_thought=thinks and index > last_question)
            else:
                is_first, is_last = (
                    turns[index - 1][0] != "tool",
                    index + 1 == len(turns) or turns[index + 1][0] != "tool",
                )
                text += "\n\n<function_results>" * is_first + f"\n<result>{message_text(message)}</result>"
                text += f"\n</function_results>\n\n{begun}" * is_last
        return (
            text if add_generation_prompt else text.removesuffix(_THINK).removesuffix(_THOUGHT).removesuffix(_ASSISTANT)
        )

    def takes_thoughts_apart(self, markers: ThoughtMarkers) -> bool:  # noqa: ARG002 - as a chat template's
        """Thoughts belong in `reasoning_content`."""
        return True


def _role(message: Mapping[str, Any]) -> str:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"a message must be a mapping with a role, got {type(message).__name__}")
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ("system", "user", "assistant", "tool"):
        raise TemplateError(f"DeepSeek-V3.2 knows no role {str(role)[:40]!r}: use system, user, assistant or tool")
    return str(role)


def _answer(message: Mapping[str, Any], with_thought: bool) -> str:
    thought = f"{message_text(message, 'reasoning_content')}{_THOUGHT}" if with_thought else ""
    calls = [called(call) for call in message.get("tool_calls") or ()]
    written = f"\n\n{DEEPSEEK_V32.write(calls)}" if calls else ""
    return f"{thought}{message_text(message)}{written}{_END}"


def _told(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return what the model is told of its tools."""
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    example = DEEPSEEK_V32.write([("NAME", '{"PARAMETER": "VALUE"}')])
    return (
        "## Tools\n\nThese functions are at your disposal. To call one or more of them, write in your answer:\n\n"
        f"{example}\n\nRepeat <{DSML}invoke> for further calls and <{DSML}parameter> for further parameters. Write "
        'string="true" and a string as it is, without quotes, or string="false" and any other value as JSON. '
        "The results come in <function_results>; think about them before you go on.\n\n"
        f"The functions, each with the JSON schema of its parameters:\n<functions>\n{listed}\n</functions>\n"
    )
