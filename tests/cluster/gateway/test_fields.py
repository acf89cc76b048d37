"""Every field of each API: what it does, null is unset, a wrong type is refused in that API's shape; no node runs."""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cluster.gateway import anthropic_messages, ollama, openai_chat, openai_responses, openai_text
from cluster.gateway.app import Gateway
from cluster.gateway.guard import Admission
from cluster.gateway.question import Question, read
from cluster.gateway.served import Served
from cluster.home import Home
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.grammar import ANY_OBJECT, Grammar

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
FUNCTION = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CLAUDES = {"name": "add", "description": "adds", "input_schema": FUNCTION["parameters"]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CALLS = Grammar(tools=(("add", '{"type": "object", "properties": {}, "additionalProperties": false}'),), parallel=True)

Body = dict[str, Any]


def ollama_question(chat: bool) -> Callable[[Any], Question]:
    return lambda body: ollama.question_of(body, chat=chat)


APIS: dict[str, tuple[type[Any], Callable[[Any], Question], Body]] = {
    "/v1/chat/completions": (openai_chat.ChatBody, openai_chat.question_of, HELLO),
    "/v1/completions": (openai_text.TextBody, lambda body: openai_text.questions_of(body)[0], {"prompt": "Hello"}),
    "/v1/responses": (openai_responses.ResponsesBody, openai_responses.question_of, {"input": "Hello"}),
    "/v1/messages": (anthropic_messages.MessagesBody, anthropic_messages.question_of, {**HELLO, "max_tokens": 5}),
    "/api/chat": (ollama.AskBody, ollama_question(chat=True), HELLO),
    "/api/generate": (ollama.AskBody, ollama_question(chat=False), {"prompt": "Hello"}),
}

SAMPLED: Body = {"temperature": 0.5, "top_p": 0.5, "top_k": 4, "min_p": 0.1, "seed": 7}
PENALTIES: Body = {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.5}
BIAS = {"logit_bias": {"5": -100}}


def sampled(*names: str) -> dict[str, tuple[Body, Body]]:
    fields = {name: (SAMPLED | PENALTIES)[name] for name in names}
    return {name: ({name: value}, {"sampling": {name: value}}) for name, value in fields.items()}


_OPENAI = {
    **sampled(*SAMPLED, *PENALTIES),
    "logit_bias": (BIAS, {"sampling": {"logit_bias": {5: -100}}}),
    "stop": ({"stop": "x"}, {"stop": ("x",)}),
    "max_tokens": ({"max_tokens": 9}, {"max_tokens": 9}),
    "n": ({"n": 1}, {}),
    "stream_options": ({"stream_options": {"include_usage": True}}, {}),
}
_OLLAMA = {
    "options": (
        {"options": {**SAMPLED, "repeat_penalty": 1.5, "num_predict": 9, "stop": ["x"], "num_gpu": 1}},
        {"sampling": {**SAMPLED, "repetition_penalty": 1.5}, "max_tokens": 9, "stop": ("x",)},
    ),
    "format": ({"format": SCHEMA}, {"grammar": Grammar.of_schema(SCHEMA)}),
    "think": ({"think": True}, {"variables": {"enable_thinking": True, "thinking": True}}),
    "tools": ({"tools": [TOOL]}, {"tools": (TOOL,)}),
}

EFFECTS: dict[str, dict[str, tuple[Body, Body]]] = {
    "/v1/chat/completions": {
        **_OPENAI,
        "max_completion_tokens": ({"max_completion_tokens": 9, "max_tokens": 3}, {"max_tokens": 9}),
        "tools": ({"tools": [TOOL]}, {"tools": (TOOL,)}),
        "tool_choice": ({"tools": [TOOL], "tool_choice": "required"}, {"tools": (TOOL,), "grammar": CALLS}),
        "parallel_tool_calls": ({"parallel_tool_calls": False}, {}),
        "response_format": ({"response_format": {"type": "json_object"}}, {"grammar": Grammar(ANY_OBJECT)}),
        "logprobs": ({"logprobs": True}, {}),
        "top_logprobs": ({"logprobs": True, "top_logprobs": 3}, {"top_logprobs": 3}),
        "reasoning_effort": (
            {"reasoning_effort": "none"},
            {"variables": {"reasoning_effort": "none", "enable_thinking": False, "thinking": False}},
        ),
        "chat_template_kwargs": ({"chat_template_kwargs": {"a": 1}}, {"variables": {"a": 1}}),
        "modalities": ({"modalities": ["text"]}, {}),
    },
    "/v1/completions": {
        **_OPENAI,
        "best_of": ({"best_of": 1}, {}),
        "echo": ({"echo": True}, {"prompt_as_is": True}),
        "logprobs": (
            {"logprobs": 3, "echo": True},
            {"top_logprobs": 3, "prompt_logprobs": True, "prompt_as_is": True},
        ),
    },
    "/v1/responses": {
        **sampled("temperature", "top_p"),
        "max_output_tokens": ({"max_output_tokens": 9}, {"max_tokens": 9}),
        "instructions": (
            {"instructions": "Be brief."},
            {"messages": [{"role": "system", "content": "Be brief."}, *HELLO["messages"]]},
        ),
        "tools": ({"tools": [{"type": "function", **FUNCTION}]}, {"tools": (TOOL,)}),
        "tool_choice": (
            {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"},
            {"tools": (TOOL,), "grammar": CALLS},
        ),
        "parallel_tool_calls": ({"parallel_tool_calls": False}, {}),
        "text": (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
            {"grammar": Grammar.of_schema(SCHEMA)},
        ),
        "reasoning": (
            {"reasoning": {"effort": "none"}},
            {"variables": {"reasoning_effort": "none", "enable_thinking": False, "thinking": False}},
        ),
        "metadata": ({"metadata": {"a": "b"}}, {}),
    },
    "/v1/messages": {
        **sampled("temperature", "top_p", "top_k"),
        "max_tokens": ({"max_tokens": 128_000}, {"max_tokens": 128_000, "fits_context": True}),
        "system": (
            {"system": "Be brief."},
            {"messages": [{"role": "system", "content": "Be brief."}, *HELLO["messages"]]},
        ),
        "stop_sequences": ({"stop_sequences": ["x"]}, {"stop": ("x",)}),
        "tools": ({"tools": [CLAUDES]}, {"tools": (TOOL,)}),
        "tool_choice": ({"tools": [CLAUDES], "tool_choice": {"type": "any"}}, {"tools": (TOOL,), "grammar": CALLS}),
        "thinking": (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"variables": {"enable_thinking": True, "thinking": True}},
        ),
        "output_config": (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {"grammar": Grammar.of_schema(SCHEMA)},
        ),
        "output_format": (
            {"output_format": {"type": "json_schema", "schema": SCHEMA}},
            {"grammar": Grammar.of_schema(SCHEMA)},
        ),
    },
    "/api/chat": {**_OLLAMA},
    "/api/generate": {
        **_OLLAMA,
        "system": (
            {"system": "Be brief."},
            {"messages": [{"role": "system", "content": "Be brief."}, *HELLO["messages"]]},
        ),
        "raw": ({"raw": True}, {"messages": (), "prompt": "Hello"}),
    },
}
"""What a field does: the fields of the question that differ from that of the body without it."""

REFUSED: dict[str, Body] = {
    "/v1/chat/completions": {
        "functions": [FUNCTION],
        "function_call": "auto",
        "audio": {"voice": "x"},
        "prediction": {"type": "content"},
        "web_search_options": {"a": 1},
        "n": 2,
        "modalities": ["audio"],
    },
    "/v1/completions": {"suffix": "x", "n": 2, "best_of": 2},
    "/v1/responses": {
        "previous_response_id": "resp_1",
        "conversation": "conv_1",
        "background": True,
        "prompt": {"id": "x"},
        "top_logprobs": 3,
    },
    "/v1/messages": {"mcp_servers": [{"url": "x"}], "container": "x"},
    "/api/chat": {"logprobs": True, "template": "x", "images": ["x"], "suffix": "x"},
    "/api/generate": {"logprobs": True, "template": "x", "images": ["x"], "suffix": "x"},
}

ELSEWHERE = {"model", "stream", "messages", "prompt", "input"}
"""Fields that the tests with a running model cover, or that every body here has."""

OF_THE_OTHER = {"/api/chat": {"system", "raw"}, "/api/generate": set[str]()}


def question(path: str, **fields: Any) -> Question:
    kind, question_of, base = APIS[path]
    return question_of(read(json.dumps(base | fields).encode(), kind))


def cases(table: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    return [(path, name) for path, fields in table.items() for name in fields]


@pytest.mark.parametrize(("path", "name"), cases(EFFECTS))
def test_a_field_does_what_it_says(path: str, name: str) -> None:
    fields, effects = EFFECTS[path][name]
    plain = question(path)
    asked = question(path, **fields)
    differing = {key: getattr(asked, key) for key in Question.__slots__ if getattr(asked, key) != getattr(plain, key)}
    assert differing == {key: value for key, value in effects.items() if value != getattr(plain, key)}


@pytest.mark.parametrize(("path", "name"), cases(REFUSED))
def test_a_field_that_cannot_be_served_is_refused_by_name(path: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        question(path, **{name: REFUSED[path][name]})


@pytest.mark.parametrize("path", APIS)
def test_every_field_is_in_these_tables_and_null_or_unknown_is_unset(path: str) -> None:
    kind = APIS[path][0]
    optional = set(kind.__struct_fields__) - ELSEWHERE - OF_THE_OTHER.get(path, set())
    assert optional <= EFFECTS[path].keys() | REFUSED[path].keys()
    nothing = dict.fromkeys(optional - APIS[path][2].keys())
    assert question(path, **nothing, user="anna", unheard_of={"a": [1]}) == question(path)


def test_a_wrong_type_is_400_in_the_shape_of_its_api_and_names_the_field(tmp_path: Path) -> None:
    async def ask() -> None:
        app = Gateway(Served(Home(tmp_path)), Admission(None)).app()
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as client:
            for path, (kind, _, base) in APIS.items():
                for name, annotation in kind.__annotations__.items():
                    wrong = 1.5 if "bool" in annotation else True
                    answer = await client.post(path, json={**base, name: wrong})
                    body = answer.json()
                    assert answer.status_code == 400, (path, name, body)
                    if path.startswith("/api"):
                        assert name in body["error"]
                        continue
                    assert body["error"]["type"] == "invalid_request_error"
                    assert name in body["error"]["message"]
                    assert body.get("type") == ("error" if path == "/v1/messages" else None)

    asyncio.run(ask())


def test_a_body_is_read_as_json_whatever_its_type_is_said_to_be(tmp_path: Path) -> None:
    async def ask() -> None:
        app = Gateway(Served(Home(tmp_path)), Admission(None)).app()
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as client:
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                for path, (_, _, base) in APIS.items():
                    for content, status in ((json.dumps(base), 503), ("prompt=Hello", 400)):  # 503: no node runs
                        answer = await client.post(path, content=content, headers={"content-type": kind})
                        assert answer.status_code == status, (path, kind, content)

    asyncio.run(ask())
