"""OpenAI's Chat Completions: POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cluster.gateway.answering import End, Piece
from cluster.gateway.events import DONE, KEEP_ALIVE, event
from cluster.gateway.failures import Failure
from cluster.gateway.openai_errors import error_body
from cluster.gateway.question import Question, calls_grammar, given, json_grammar, refuse, stops
from cluster.gateway.shape import Accepted, Whole, calls_of, content_of, reasoning_of
from mlx_moe.decoding.request import FinishReason, Token, TokenLogprob
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import Content, Part, Reasoning, ToolCall
from mlx_moe.text.grammar import Grammar

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct):
    """The body of a request; null is the same as absent. Fields that are not here are ignored."""

    messages: list[dict[str, Any]]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None


def question_of(body: ChatBody) -> Question:
    """Return what a body asks. Raises InvalidRequestError."""
    if not body.messages:
        raise InvalidRequestError("messages must have at least one message")
    if body.n not in (None, 1):
        raise InvalidRequestError(f"n must be 1, got {body.n}: one answer is written for each request")
    if body.modalities not in (None, [], ["text"]):
        raise InvalidRequestError(f"modalities must be ['text'], got {body.modalities}")
    refuse(
        body,
        functions="send tools instead",
        function_call="send tool_choice instead",
        audio="answers are text",
        prediction="there is no such speculation",
        web_search_options="the model has no access to the network",
    )
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true")
    tools = chosen_tools(body.tools, body.tool_choice)
    choice = body.tool_choice
    named = choice.get("function") if isinstance(choice, Mapping) else None
    name = named.get("name") if isinstance(named, Mapping) else None
    return Question(
        messages=[message(item, n) for n, item in enumerate(body.messages)],
        tools=tools,
        variables=template_variables(body.reasoning_effort, body.chat_template_kwargs),
        sampling=sampling_of(body),
        max_tokens=body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens,
        stop=stops(body.stop),
        top_logprobs=body.top_logprobs or 0,
        grammar=forced_calls(tools, choice, name, parallel=body.parallel_tool_calls is not False)
        or _format(body.response_format or {}),
    )


def forced_calls(tools: Sequence[Mapping[str, Any]], choice: Any, name: Any, *, parallel: bool) -> Grammar | None:
    """Return the grammar of an answer that must have calls; `name` is what a choice that is an object names.

    Raises:
        InvalidRequestError: the choice is unknown, or there is no such tool.
    """
    if choice in (None, "auto", "none"):
        return None
    if choice != "required" and not (isinstance(choice, Mapping) and isinstance(name, str)):
        raise InvalidRequestError(
            f"tool_choice {str(choice)[:80]!r} is not supported; use 'auto', 'none', 'required' or a function"
        )
    return calls_grammar(tools, name, parallel=parallel)


def _format(response_format: Mapping[str, Any]) -> Grammar | None:
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    return json_grammar(response_format.get("type"), schema, "response_format")


def sampling_of(body: Any) -> dict[str, Any]:
    """Return the sampling parameters that a body of this API sets."""
    bias = None if body.logit_bias is None else {token_id(key): value for key, value in body.logit_bias.items()}
    return given(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k == -1 else body.top_k,  # vLLM's "off"
        min_p=body.min_p,
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=bias,
    )


def token_id(text: str) -> int:
    """Return the token id that is the key of a JSON object."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise InvalidRequestError(f"logit_bias must have token ids as keys, got {text[:80]!r}")
    return int(text)


def chosen_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], ...]:
    """Return the tools that the model is told of: none if the choice is "none"."""
    for n, tool in enumerate(tools or ()):
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
            raise InvalidRequestError(f"tools[{n}] must be of type 'function' with a function")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidRequestError(f"tools[{n}].function.name must be a text")
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise InvalidRequestError(f"tools[{n}].function.parameters must be an object")
    return () if choice == "none" else tuple(tools or ())


def template_variables(effort: str | None, more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the variables of the chat template: how much the model shall think, and the client's own."""
    if effort is None:
        return dict(more or {})
    if effort not in EFFORTS:
        raise InvalidRequestError(f"reasoning_effort must be one of {', '.join(EFFORTS)}; got {effort[:80]!r}")
    thinks = effort != "none"
    return {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks, **(more or {})}


def message(item: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Return a message as templates take it: content is a text, developer is system, what is null is left out."""
    role = item.get("role")
    if not isinstance(role, str):
        raise InvalidRequestError(f"messages[{n}].role must be a text")
    known = {key: value for key, value in item.items() if value is not None}
    known["role"] = "system" if role == "developer" else role
    known["content"] = text_of(item.get("content"), f"messages[{n}].content")
    calls = known.pop("tool_calls", None) or []
    if not (isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls)):
        raise InvalidRequestError(f"messages[{n}].tool_calls must be a list of objects")
    if calls:
        known["tool_calls"] = calls
        known = {key: value for key, value in known.items() if key != "content" or value}
    return known


def text_of(content: Any, name: str) -> str:
    """Return a content that is text, null or a list of parts. Raises InvalidRequestError for parts that are no text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{name} must be a text or a list of parts")
    texts = []
    for n, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part if isinstance(part, str) else part.get(kind if kind == "refusal" else "text") if kind else None
        if not isinstance(text, str):
            raise InvalidRequestError(f"{name}[{n}] of type {str(kind)[:80]!r} is not supported: only text is")
        texts.append(text)
    return "".join(texts)


class ChatShape:
    """Writes an answer as a chat completion, or as its chunks."""

    media_type = "text/event-stream"

    def __init__(self, body: ChatBody, accepted: Accepted) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": accepted.model}
        self._with_logprobs = bool(body.logprobs)
        self._with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

    def begin(self) -> bytes:
        """Return the chunk with the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        """Return the chunks of a token's parts."""
        logprobs = _logprobs([piece.token]) if self._with_logprobs else None
        if not piece.parts and logprobs:
            return self._chunk({}, logprobs=logprobs)
        return self._parts(piece.parts, logprobs)

    def end(self, end: End) -> bytes:
        """Return the chunk with the finish reason, and the trailer with the usage if it was asked for."""
        last = self._parts(end.parts, None) + self._chunk({}, finish_reason(end))
        if self._with_usage:
            last += event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(end)})
        return last + DONE

    def pause(self) -> bytes:
        """Return a comment."""
        return KEEP_ALIVE

    def cut(self, failure: Failure) -> bytes:
        """Return the error as OpenAI's clients raise it."""
        return event(error_body(failure))

    def whole(self, answer: Whole) -> Any:
        """Return the chat completion."""
        calls = [self._call(call) for call in calls_of(answer.parts)]
        text = {"role": "assistant", "content": content_of(answer.parts) or (None if calls else ""), "refusal": None}
        thought = {"reasoning_content": reasoning_of(answer.parts)} if reasoning_of(answer.parts) else {}
        choice = {
            "index": 0,
            "message": {**text, **thought, **({"tool_calls": calls} if calls else {})},
            "logprobs": _logprobs(answer.tokens) if self._with_logprobs else None,
            "finish_reason": finish_reason(answer.end),
        }
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage(answer.end)}

    def _parts(self, parts: Sequence[Part], logprobs: Any) -> bytes:
        chunks: list[bytes] = []
        for part in parts:
            if isinstance(part, Content):
                delta: dict[str, Any] = {"content": part.text}
            elif isinstance(part, Reasoning):
                delta = {"reasoning_content": part.text}
            elif isinstance(part, ToolCall):
                delta = {"tool_calls": [{"index": part.index, **self._call(part)}]}
            else:
                continue
            chunks.append(self._chunk(delta, logprobs=logprobs if not chunks else None))
        return b"".join(chunks)

    def _call(self, call: ToolCall) -> dict[str, Any]:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": call.id or f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


def finish_reason(end: End) -> str:
    """Return the reason in OpenAI's words. An answer that repeated itself was cut, as by a length."""
    reasons: dict[FinishReason, str] = {"stop": "stop", "length": "length", "loop": "length", "cancelled": "stop"}
    return "tool_calls" if end.calls and end.finish_reason == "stop" else reasons[end.finish_reason]


def usage(end: End, told: int | None = None) -> dict[str, Any]:
    """Return the counts of tokens; `told` is how many of the answer the client gets, None for all."""
    stats = end.stats
    generated = stats.generated_tokens if told is None else told
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": stats.prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": end.reasoning_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    content = [{**_scored(token), "top_logprobs": [_scored(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _scored(token: Token | TokenLogprob) -> dict[str, Any]:
    return {"token": spelled(token.piece), "logprob": token.logprob, "bytes": list(token.piece)}


def spelled(piece: bytes) -> str:
    """Return a token as text: OpenAI spells the bytes of one that is a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
