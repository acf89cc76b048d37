"""OpenAI's Responses: POST /v1/responses, without stored state."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cluster.gateway.answering import End, Piece
from cluster.gateway.events import KEEP_ALIVE, event
from cluster.gateway.failures import Failure
from cluster.gateway.openai_chat import chosen_tools, forced_calls, template_variables
from cluster.gateway.openai_errors import error_body
from cluster.gateway.question import Question, given, json_grammar, refuse
from cluster.gateway.shape import Accepted, Whole
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import Content, Part, Reasoning, ToolCall

_PARTS = ("input_text", "output_text", "text", "refusal")


class ResponsesBody(msgspec.Struct):
    """The body of a request; null is the same as absent. Fields that are not here are ignored."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    top_logprobs: int | None = None
    metadata: dict[str, Any] | None = None


def question_of(body: ResponsesBody) -> Question:
    """Return what a body asks. Raises InvalidRequestError."""
    refuse(
        body,
        previous_response_id="nothing is stored; send the earlier items as input",
        conversation="nothing is stored; send the earlier items as input",
        background="answers are written while the request lasts",
        prompt="there are no stored prompts",
        top_logprobs="use /v1/chat/completions for log-probabilities",
    )
    written = (body.text or {}).get("format") or {}
    if not isinstance(written, Mapping):
        raise InvalidRequestError("text.format must be an object")
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    if not items:
        raise InvalidRequestError("input must have at least one item")
    effort = (body.reasoning or {}).get("effort")
    tools, choice = chosen_tools(_tools(body.tools or ()), body.tool_choice), body.tool_choice
    name = choice.get("name") if isinstance(choice, Mapping) else None
    return Question(
        messages=_messages(body.instructions, items),
        tools=tools,
        variables=template_variables(effort, None),
        sampling=given(temperature=body.temperature, top_p=body.top_p),
        max_tokens=body.max_output_tokens,
        grammar=forced_calls(tools, choice, name, parallel=body.parallel_tool_calls is not False)
        or json_grammar(written.get("type"), written.get("schema"), "text.format"),
    )


def _tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the functions among the tools in the form of chat completions; others run on OpenAI's machines."""
    functions = []
    for tool in tools:
        if tool.get("type") == "function":
            names = ("name", "description", "parameters", "strict")
            functions.append({"type": "function", "function": given(**{name: tool.get(name) for name in names})})
    return functions


def _messages(instructions: str | None, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the items as messages.

    Reasoning and calls belong to the assistant's message that follows them. Instructions and the developer's messages
    that follow them are one system message: Codex sends several, and many templates allow one.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []

    def assistant() -> dict[str, Any]:
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant"})
        return messages[-1]

    for n, item in enumerate(items):
        match item:
            case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
                call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                assistant().setdefault("tool_calls", []).append(call)
            case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
                text = output if isinstance(output, str) else _text(output, f"input[{n}].output")
                messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
            case {"type": "reasoning"}:
                parts = item.get("content")
                given = parts if isinstance(parts, list) else []
                texts = [part.get("text", "") for part in given if isinstance(part, Mapping)]
                if texts:
                    messages.append({"role": "assistant", "reasoning_content": "".join(map(str, texts))})
            case {"role": "assistant", "content": content}:
                assistant()["content"] = _text(content, f"input[{n}].content")
            case {"role": "user" | "system" | "developer" as role, "content": content}:
                role = "system" if role == "developer" else role
                text = _text(content, f"input[{n}].content")
                if role == "system" and messages and messages[-1]["role"] == "system":
                    messages[-1]["content"] += f"\n\n{text}"
                else:
                    messages.append({"role": role, "content": text})
            case _:
                kind = item.get("type", item.get("role"))
                raise InvalidRequestError(f"input[{n}] of type {str(kind)[:80]!r} is not supported, or not complete")
    return messages


def _text(content: Any, name: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{name} must be a text or a list of parts")
    texts = []
    for n, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("refusal" if kind == "refusal" else "text") if kind in _PARTS else None
        if not isinstance(text, str):
            raise InvalidRequestError(f"{name}[{n}] of type {str(kind)[:80]!r} is not supported: only text is")
        texts.append(text)
    return "".join(texts)


class ResponsesShape:
    """Writes an answer as a response of items, or as its events."""

    media_type = "text/event-stream"

    def __init__(self, body: ResponsesBody, accepted: Accepted) -> None:
        self._body = body
        self._model = accepted.model
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._sequence = 0
        self._items: list[dict[str, Any]] = []
        self._open: type[Part] | None = None

    def begin(self) -> bytes:
        """Return the start of the response."""
        started = self._response("in_progress")
        return self._event("response.created", response=started) + self._event("response.in_progress", response=started)

    def piece(self, piece: Piece) -> bytes:
        """Return the events of a token's parts."""
        return b"".join(map(self._part, piece.parts))

    def end(self, end: End) -> bytes:
        """Return the rest and the whole response."""
        rest = b"".join(map(self._part, end.parts)) + self._close()
        response = self._ended(end)
        return rest + self._event(f"response.{response['status']}", response=response)

    def pause(self) -> bytes:
        """Return a comment."""
        return KEEP_ALIVE

    def cut(self, failure: Failure) -> bytes:
        """Return the failed response, as OpenAI's clients report it."""
        error = error_body(failure)["error"]
        failed = {**self._response("failed"), "error": {"code": error["code"], "message": error["message"]}}
        return self._event("response.failed", response=failed)

    def whole(self, answer: Whole) -> Any:
        """Return the response."""
        for part in answer.parts:
            self._part(part)
        self._close()
        return self._ended(answer.end)

    def _part(self, part: Part) -> bytes:
        match part:
            case Content(text) if text:
                begun = self._begin_item(
                    Content, {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant"}, _output("")
                )
                self._items[-1]["content"][0]["text"] += text
                return begun + self._delta("response.output_text.delta", text, logprobs=[])
            case Reasoning(text) if text:
                item = {"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "summary": []}
                begun = self._begin_item(Reasoning, item, {"type": "reasoning_text", "text": ""})
                self._items[-1]["content"][0]["text"] += text
                return begun + self._delta("response.reasoning_text.delta", text)
            case ToolCall():
                return self._close() + self._call(part)
        return b""

    def _begin_item(self, kind: type[Part], item: dict[str, Any], content: dict[str, Any]) -> bytes:
        if self._open is kind:
            return b""
        closed = self._close()
        self._open = kind
        self._items.append({**item, "status": "in_progress", "content": []})
        added = self._event("response.output_item.added", output_index=self._index, item=self._items[-1])
        self._items[-1]["content"].append(content)
        if kind is Reasoning:
            return closed + added
        return closed + added + self._of_item("response.content_part.added", content_index=0, part=content)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        item, content = self._items[-1], self._items[-1]["content"][0]
        item["status"] = "completed"
        if self._open is Reasoning:
            done = self._of_item("response.reasoning_text.done", content_index=0, text=content["text"])
        else:
            text = self._of_item("response.output_text.done", content_index=0, text=content["text"], logprobs=[])
            done = text + self._of_item("response.content_part.done", content_index=0, part=content)
        self._open = None
        return done + self._event("response.output_item.done", output_index=self._index, item=item)

    def _call(self, call: ToolCall) -> bytes:
        call_id = call.id or f"call_{uuid.uuid4().hex[:24]}"
        item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "call_id": call_id, "name": call.name}
        self._items.append({**item, "arguments": "", "status": "in_progress"})
        added = self._event("response.output_item.added", output_index=self._index, item=self._items[-1])
        delta = self._of_item("response.function_call_arguments.delta", delta=call.arguments)
        self._items[-1] |= {"arguments": call.arguments, "status": "completed"}
        done = self._of_item("response.function_call_arguments.done", arguments=call.arguments, name=call.name)
        ended = self._event("response.output_item.done", output_index=self._index, item=self._items[-1])
        return added + delta + done + ended

    @property
    def _index(self) -> int:
        return len(self._items) - 1

    def _delta(self, name: str, text: str, **more: Any) -> bytes:
        return self._of_item(name, content_index=0, delta=text, **more)

    def _of_item(self, kind: str, /, **data: Any) -> bytes:
        return self._event(kind, item_id=self._items[-1]["id"], output_index=self._index, **data)

    def _event(self, kind: str, /, **data: Any) -> bytes:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return event({"type": kind, "sequence_number": sequence, **data}, kind)

    def _ended(self, end: End) -> dict[str, Any]:
        is_cut = end.finish_reason in ("length", "loop")
        response = self._response("incomplete" if is_cut else "completed")
        details = {"incomplete_details": {"reason": "max_output_tokens"}} if is_cut else {}
        return {**response, **details, "usage": _usage(end)}

    def _response(self, status: str) -> dict[str, Any]:
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": self._items if status != "in_progress" else [],
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "previous_response_id": None,
            "store": False,
            "usage": None,
        }


def _output(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(end: End) -> dict[str, Any]:
    stats = end.stats
    return {
        "input_tokens": stats.prompt_tokens,
        "input_tokens_details": {"cached_tokens": stats.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": stats.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": end.reasoning_tokens},
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
    }
