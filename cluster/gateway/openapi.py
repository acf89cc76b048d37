"""OpenAPI: the description of the gateway's paths for programs, from the types that bodies are read into."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.routing import Route

from cluster.gateway.anthropic_messages import MessagesBody
from cluster.gateway.ollama import AskBody
from cluster.gateway.openai_chat import ChatBody
from cluster.gateway.openai_responses import ResponsesBody
from cluster.gateway.openai_text import TextBody

_BODIES: dict[str, type[msgspec.Struct]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": TextBody,
    "/v1/responses": ResponsesBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": MessagesBody,
    "/api/chat": AskBody,
    "/api/generate": AskBody,
    "/api/show": AskBody,
}

_NO_APIS = ("/page/", "/v1/cluster")
"""What belongs to the dashboard and may change with it."""


class OpenAIError(msgspec.Struct):
    """The error itself."""

    message: str
    type: str
    code: str
    param: None = None


class OpenAIFailure(msgspec.Struct):
    """An error as OpenAI's clients read it."""

    error: OpenAIError


class AnthropicError(msgspec.Struct):
    """The error itself."""

    type: str
    message: str


class AnthropicFailure(msgspec.Struct):
    """An error as Anthropic's clients read it."""

    type: str
    error: AnthropicError


class OllamaFailure(msgspec.Struct):
    """An error as Ollama's clients read it."""

    error: str


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the description of these routes, by OpenAPI 3.1; the docstrings of their endpoints are the summaries."""
    kinds = [*dict.fromkeys(_BODIES.values()), OpenAIFailure, AnthropicFailure, OllamaFailure]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    refs = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        if route.path == "/" or route.path.startswith(_NO_APIS):
            continue
        path = route.path.replace(":path}", "}")
        failure = {"application/json": {"schema": refs[_failure(path)]}}
        operation: dict[str, Any] = {
            "summary": (route.endpoint.__doc__ or "").partition("\n")[0],
            "responses": {
                "200": {"description": "The answer"},
                "default": {"description": "Why not", "content": failure},
            },
        }
        if (kind := _BODIES.get(path)) is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": refs[kind]}}}
        if "{name}" in path:
            operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
        paths[path] = {"post" if "POST" in (route.methods or ()) else "get": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "moe-cluster", "version": "1"},
        "paths": paths,
        "components": {"schemas": components},
    }


def _failure(path: str) -> type[msgspec.Struct]:
    if path.startswith("/api/"):
        return OllamaFailure
    return AnthropicFailure if path.startswith("/v1/messages") else OpenAIFailure
