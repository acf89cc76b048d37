"""Targets that are bodies of HTTP requests, of each API."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.gateway import anthropic_messages, ollama, openai_chat, openai_responses, openai_text, question
from tests.fuzz.fuzzing import Target
from tests.fuzz.mutation import of_json

NAMES = ("openai_chat", "openai_responses", "openai_text", "anthropic", "ollama_chat")


def targets(_directory: Path) -> Iterator[Target]:
    """Yield the targets."""
    tool = {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "int"}}},
    }
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "assistant", "reasoning_content": "r", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "user", "content": "u"},
    ]
    functions, named = [{"type": "function", "function": tool}], {"type": "function", "function": {"name": "add"}}
    schema = {"name": "x", "schema": {"type": "object", "required": ["a"], "properties": {"a": {"enum": [1, "b"]}}}}
    chat = {
        "model": "demo",
        "messages": turns,
        "tools": functions,
        "tool_choice": named,
        "temperature": 0.5,
        "stop": ["x"],
    }
    formed = {"messages": turns[3:], "response_format": {"type": "json_schema", "json_schema": schema}, "max_tokens": 5}
    yield _body("openai_chat", openai_chat.ChatBody, openai_chat.question_of, chat, formed)
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}], "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
    ]
    asked = {"instructions": "s", "input": items, "tools": [{"type": "function", **tool}], "tool_choice": "auto"}
    yield _body("openai_responses", openai_responses.ResponsesBody, openai_responses.question_of, asked)
    text = {"prompt": ["a", "b"], "max_tokens": 3, "logit_bias": {"5": 1}, "stop": "x", "logprobs": 1}
    yield _body("openai_text", openai_text.TextBody, openai_text.questions_of, text, text | {"prompt": [[1, 2]]})
    blocks = [
        {"type": "thinking", "thinking": "r", "signature": "x"},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
    ]
    results = [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "2"}]}]
    claude = {
        "system": [{"type": "text", "text": "s"}],
        "max_tokens": 5,
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": results},
        ],
        "tools": [{"name": "add", "input_schema": tool["parameters"]}],
        "tool_choice": {"type": "any"},
    }
    yield _body("anthropic", anthropic_messages.MessagesBody, anthropic_messages.question_of, claude)
    named_call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
    }
    llama = {
        "model": "demo",
        "messages": [*turns[3:], named_call],
        "think": True,
        "format": schema["schema"],
        "options": {"top_k": 4},
    }
    read = functools.partial(ollama.question_of, chat=True)
    yield _body("ollama_chat", ollama.AskBody, read, llama)


def _body(name: str, kind: Any, question_of: Callable[[Any], object], *seeds: object) -> Target:
    """Return the target of the body of an HTTP request."""
    return Target(
        name,
        [json.dumps(seed).encode() for seed in seeds],
        of_json,
        lambda data: question_of(question.read(data, kind)),
    )
