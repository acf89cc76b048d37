"""Anthropic's Messages: POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cluster.gateway.answering import End, Piece
from cluster.gateway.anthropic_errors import error_body
from cluster.gateway.events import event
from cluster.gateway.failures import Failure
from cluster.gateway.question import Question, calls_grammar, given, json_grammar, refuse
from cluster.gateway.shape import Accepted, Whole
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import Content, Part, Reasoning, ToolCall
from mlx_moe.text.grammar import Grammar

SIGNATURE = "moe-cluster"
"""Clients send thinking blocks back with their signature; this server does not check it."""


class MessagesBody(msgspec.Struct):
    """The body of a request; null is the same as absent. Fields that are not here are ignored."""

    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: int | None = None
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    output_format: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    container: Any = None


def question_of(body: MessagesBody) -> Question:
    """Return what a body asks. Raises InvalidRequestError."""
    if not body.messages:
        raise InvalidRequestError("messages must have at least one message")
    refuse(
        body,
        mcp_servers="the server calls no tools; send tools and call them yourself",
        container="the server runs no code",
    )
    system = [] if body.system is None else [{"role": "system", "content": _text(body.system, "system")}]
    turns = [turn for n, item in enumerate(body.messages) for turn in _turns(item, n)]
    tools = _tools(body)
    thinks = body.thinking is not None and body.thinking.get("type") != "disabled"
    variables = {} if body.thinking is None else {"enable_thinking": thinks, "thinking": thinks}
    return Question(
        messages=[*system, *turns],
        tools=tools,
        variables=variables,
        sampling=given(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k),
        max_tokens=body.max_tokens,
        fits_context=True,  # clients send the most of the model that they believe to speak to
        stop=tuple(body.stop_sequences or ()),
        grammar=_forced_calls(tools, body.tool_choice or {}) or _format(body),
    )


def _forced_calls(tools: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> Grammar | None:
    kind, name = choice.get("type", "auto"), choice.get("name")
    if kind in ("auto", "none"):
        return None
    if kind != "any" and not (kind == "tool" and isinstance(name, str)):
        raise InvalidRequestError(f"tool_choice of type {str(kind)[:80]!r} is not supported: auto, none, any, tool")
    parallel = choice.get("disable_parallel_tool_use") is not True
    return calls_grammar(tools, name if kind == "tool" else None, parallel=parallel)


def _format(body: MessagesBody) -> Grammar | None:
    written = (body.output_config or {}).get("format") or body.output_format or {}
    if not isinstance(written, Mapping):
        raise InvalidRequestError("output_config.format must be an object")
    return json_grammar(written.get("type"), written.get("schema"), "output_config.format")


def _tools(body: MessagesBody) -> tuple[Mapping[str, Any], ...]:
    tools = []
    for n, tool in enumerate(body.tools or ()):
        if tool.get("type", "custom") != "custom":
            raise InvalidRequestError(f"tools[{n}] of type {str(tool['type'])[:80]!r} is not supported; send your own")
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise InvalidRequestError(f"tools[{n}].name must be a text")
        if not isinstance(tool.get("input_schema") or {}, Mapping):
            raise InvalidRequestError(f"tools[{n}].input_schema must be an object")
        function = {
            "name": tool["name"],
            "description": tool.get("description") or "",
            "parameters": tool.get("input_schema") or {"type": "object", "properties": {}},
        }
        tools.append({"type": "function", "function": function})
    return () if (body.tool_choice or {}).get("type") == "none" else tuple(tools)


def _turns(item: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """Return a message as one or more in OpenAI's form: results of tools are messages of their own there."""
    role, content, name = item.get("role"), item.get("content"), f"messages[{n}].content"
    if role not in ("user", "assistant", "system"):
        raise InvalidRequestError(f"messages[{n}].role must be 'user' or 'assistant', got {str(role)[:80]!r}")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise InvalidRequestError(f"{name} must be a text or a list of blocks")
    turns: list[dict[str, Any]] = []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for k, block in enumerate(content):
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought)
            case {"type": "redacted_thinking"}:
                pass
            case {"type": "tool_use", "id": str(call_id), "name": str(called), "input": dict(arguments)}:
                function = {"name": called, "arguments": json.dumps(arguments, ensure_ascii=False)}
                calls.append({"id": call_id, "type": "function", "function": function})
            case {"type": "tool_result", "tool_use_id": str(call_id)}:
                result = _text(block.get("content") or "", f"{name}[{k}].content")
                turns.append({"role": "tool", "tool_call_id": call_id, "content": result})
            case _:
                kind = block.get("type") if isinstance(block, Mapping) else block
                raise InvalidRequestError(f"{name}[{k}] of type {str(kind)[:80]!r} is not supported, or not complete")
    said: dict[str, Any] = {"role": role}
    if texts or not (calls or turns):
        said["content"] = "\n".join(texts) if role == "user" else "".join(texts)
    if thoughts:
        said["reasoning_content"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    return [*turns, said] if len(said) > 1 else turns


def _text(content: str | Sequence[Any], name: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{name} must be a text or a list of blocks")
    texts = [block.get("text") if isinstance(block, Mapping) else None for block in content]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError(f"{name} may only have text blocks")
    return "\n".join(map(str, texts))


class MessagesShape:
    """Writes an answer as a message of content blocks, or as its events."""

    media_type = "text/event-stream"

    def __init__(self, body: MessagesBody, accepted: Accepted) -> None:
        self._id = f"msg_{uuid.uuid4().hex[:24]}"
        self._model = body.model or accepted.model  # clients compare it with what they asked for
        self._prompt_tokens = accepted.prompt_tokens
        self._index = -1
        self._open: type[Part] | None = None

    def begin(self) -> bytes:
        """Return the start of the message."""
        message = self._message([], None, {"input_tokens": self._prompt_tokens, "output_tokens": 0})
        return self._event("message_start", message=message)

    def piece(self, piece: Piece) -> bytes:
        """Return the events of a token's parts."""
        return b"".join(map(self._part, piece.parts))

    def end(self, end: End) -> bytes:
        """Return the rest, the reason and the usage."""
        rest = b"".join(map(self._part, end.parts)) + self._close()
        delta = {"stop_reason": stop_reason(end), "stop_sequence": None}
        rest += self._event("message_delta", delta=delta, usage=usage(end))
        return rest + self._event("message_stop")

    def pause(self) -> bytes:
        """Return a ping."""
        return self._event("ping")

    def cut(self, failure: Failure) -> bytes:
        """Return the error as Anthropic's clients raise it."""
        return event(error_body(failure), "error")

    def whole(self, answer: Whole) -> Any:
        """Return the message."""
        blocks = [block for part in answer.parts if (block := _block(part)) is not None]
        return self._message(blocks, stop_reason(answer.end), usage(answer.end))

    def _part(self, part: Part) -> bytes:
        match part:
            case ToolCall():
                block = _block(part)
                assert block is not None
                start = self._start({**block, "input": {}}, ToolCall)
                delta = {"type": "input_json_delta", "partial_json": part.arguments}
                return start + self._delta(delta) + self._close()
            case Reasoning():
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                return self._start(empty, Reasoning) + self._delta({"type": "thinking_delta", "thinking": part.text})
            case Content():
                start = self._start({"type": "text", "text": ""}, Content)
                return start + self._delta({"type": "text_delta", "text": part.text})
        return b""

    def _start(self, block: Mapping[str, Any], kind: type[Part]) -> bytes:
        """Return the start of a block, after the end of the one before; empty if one of this kind is open."""
        if self._open is kind and kind is not ToolCall:
            return b""
        closed = self._close()
        self._index, self._open = self._index + 1, kind
        return closed + self._event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = {"type": "signature_delta", "signature": SIGNATURE}
        signature = self._delta(signed) if self._open is Reasoning else b""
        self._open = None
        return signature + self._event("content_block_stop", index=self._index)

    def _message(self, blocks: Sequence[Any], reason: str | None, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": counts,
        }

    def _event(self, name: str, **data: Any) -> bytes:
        return event({"type": name, **data}, name)


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case Content(text) if text:
            return {"type": "text", "text": text}
        case Reasoning(text) if text:
            return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
        case ToolCall():
            call_id = part.id or f"toolu_{uuid.uuid4().hex[:24]}"
            return {"type": "tool_use", "id": call_id, "name": part.name, "input": json.loads(part.arguments)}
    return None


def stop_reason(end: End) -> str:
    """Return the reason in Anthropic's words."""
    if end.finish_reason in ("length", "loop"):
        return "max_tokens"
    return "tool_use" if end.calls else "end_turn"


def usage(end: End) -> dict[str, int]:
    """Return the counts of tokens; what was in the cache is counted apart."""
    cached = end.stats.cached_tokens
    return {
        "input_tokens": end.stats.prompt_tokens - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": end.stats.generated_tokens,
    }
