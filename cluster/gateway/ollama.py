"""Ollama's API: POST /api/chat, /api/generate, /api/show; GET /api/tags, /api/ps, /api/version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from cluster.client import ClusterStatus, ModelDescription
from cluster.gateway.answering import End, Piece
from cluster.gateway.failures import Failure
from cluster.gateway.openai_chat import chosen_tools, message, text_of
from cluster.gateway.question import Question, given, json_grammar, refuse, stops
from cluster.gateway.served import name_of
from cluster.gateway.shape import Accepted, Whole, calls_of, content_of, reasoning_of
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import Part, ToolCall
from mlx_moe.text.grammar import Grammar

VERSION = "0.12.0"
"""Clients ask for a version of Ollama, and some refuse an old one."""


class Options(msgspec.Struct):
    """`options`; those of Ollama that are about its own engine, such as num_gpu, are ignored."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    num_predict: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class AskBody(msgspec.Struct):
    """The body of /api/chat and /api/generate; null is the same as absent. Fields that are not here are ignored."""

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    images: list[Any] | None = None
    template: str | None = None
    tools: list[dict[str, Any]] | None = None
    stream: bool | None = None
    think: bool | str | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    logprobs: bool | None = None


def is_only_loading(body: AskBody, *, chat: bool) -> bool:
    """Whether a body asks nothing: Ollama loads the model then."""
    return not (body.messages if chat else body.prompt)


def question_of(body: AskBody, *, chat: bool) -> Question:
    """Return what a body asks. Raises InvalidRequestError."""
    refuse(
        body,
        images="only text is",
        suffix="text is only continued at its end",
        template="the model's own is used",
        logprobs="use /v1/chat/completions for them",
    )
    options = body.options or Options()
    asked = {
        "sampling": given(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            seed=None if options.seed is None or options.seed < 0 else options.seed,
            repetition_penalty=options.repeat_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
        ),
        "max_tokens": None if options.num_predict is None or options.num_predict < 0 else options.num_predict,
        "stop": stops(options.stop),
        "grammar": _format(body.format),
    }
    if not chat and body.raw:
        return Question(prompt=body.prompt or "", **asked)  # type: ignore[arg-type]
    messages = [_message(item, n) for n, item in enumerate(body.messages or ())]
    if not chat:
        system = [{"role": "system", "content": body.system}] if body.system else []
        messages = [*system, {"role": "user", "content": body.prompt}]
    return Question(
        messages=messages,
        tools=chosen_tools(body.tools, None),
        variables=_thinking(body.think),
        **asked,  # type: ignore[arg-type]
    )


def _format(written: str | Mapping[str, Any] | None) -> Grammar | None:
    if isinstance(written, Mapping):
        return json_grammar("json_schema", written, "format")
    return json_grammar(written or None, None, "format")


def _message(item: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Return a message in OpenAI's form: arguments are objects here, and calls have no id."""
    if item.get("images"):
        raise InvalidRequestError(f"messages[{n}].images is not supported: only text is")
    read = message({key: value for key, value in item.items() if key not in ("thinking", "tool_name")}, n)
    if thought := item.get("thinking"):
        read["reasoning_content"] = text_of(thought, f"messages[{n}].thinking")
    for call in read.get("tool_calls", ()):
        function = call.get("function")
        if not isinstance(function, dict):
            raise InvalidRequestError(f"messages[{n}].tool_calls must have functions")
        if isinstance(function.get("arguments"), dict):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return read


def _thinking(think: bool | str | None) -> dict[str, Any]:
    if think is None:
        return {}
    effort = {"reasoning_effort": think} if isinstance(think, str) else {}
    return {"enable_thinking": bool(think), "thinking": bool(think), **effort}


class OllamaShape:
    """Writes an answer as one object, or as a line of JSON for each token."""

    media_type = "application/x-ndjson"

    def __init__(self, accepted: Accepted, *, chat: bool) -> None:
        self._model = accepted.model
        self._chat = chat

    def begin(self) -> bytes:
        """Return nothing: the first token is the first line."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """Return the line of a token's parts."""
        return self._parts(piece.parts)

    def end(self, end: End) -> bytes:
        """Return the last line, with the counts and times."""
        return self._parts(end.parts) + _line({**self._said(()), **_ended(end)})

    def pause(self) -> bytes:
        """Return nothing: Ollama has no such line."""
        return b""

    def cut(self, failure: Failure) -> bytes:
        """Return the error as Ollama's clients raise it."""
        return _line(error_body(failure))

    def whole(self, answer: Whole) -> Any:
        """Return the answer."""
        return {**self._said(answer.parts), **_ended(answer.end)}

    def _parts(self, parts: Sequence[Part]) -> bytes:
        said = content_of(parts) or reasoning_of(parts) or calls_of(parts)
        return _line({**self._said(parts), "done": False}) if said else b""

    def _said(self, parts: Sequence[Part]) -> dict[str, Any]:
        head = {"model": self._model, "created_at": _now()}
        thought = {"thinking": reasoning_of(parts)} if reasoning_of(parts) else {}
        if not self._chat:
            return {**head, "response": content_of(parts), **thought}
        calls = {"tool_calls": [_call(call) for call in calls_of(parts)]} if calls_of(parts) else {}
        return {**head, "message": {"role": "assistant", "content": content_of(parts), **thought, **calls}}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"function": {"index": call.index, "name": call.name, "arguments": json.loads(call.arguments)}}


def _ended(end: End) -> dict[str, Any]:
    stats = end.stats
    return {
        "done": True,
        "done_reason": "length" if end.finish_reason in ("length", "loop") else "stop",
        "total_duration": _ns(stats.total_s),
        "load_duration": 0,
        "prompt_eval_count": stats.prompt_tokens,
        "prompt_eval_duration": _ns(stats.prefill_s),
        "eval_count": stats.generated_tokens,
        "eval_duration": _ns(stats.decode_s),
    }


def listed(status: ClusterStatus) -> list[dict[str, Any]]:
    """Return the served model as /api/tags and /api/ps list it; empty if none is ready."""
    if status.ready is None:
        return []
    name = name_of(status.ready.model)
    size = sum(node.holding.weights_bytes for node in status.nodes if node.holding)
    details = {"format": "safetensors", "family": "", "families": [], "parameter_size": "", "quantization_level": ""}
    about = {"name": name, "model": name, "modified_at": _now(), "size": size, "digest": "", "details": details}
    return [{**about, "size_vram": size, "expires_at": "9999-12-31T00:00:00Z"}]


def shown(description: ModelDescription) -> dict[str, Any]:
    """Return what /api/show says of the served model."""
    capabilities = ["completion", *(["tools", "thinking"] if description.has_chat_template else [])]
    info = {"general.architecture": "moe-cluster", "moe-cluster.context_length": description.context_tokens}
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": {"format": "safetensors", "family": "", "parameter_size": "", "quantization_level": ""},
        "model_info": info,
        "capabilities": capabilities,
    }


def loaded(model: str, *, chat: bool) -> dict[str, Any]:
    """Return the answer to a request that asks nothing: the model is loaded."""
    said = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": model, "created_at": _now(), **said, "done": True, "done_reason": "load"}


def error_body(failure: Failure) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": failure.message}


def _line(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
