"""App: the routes of the gateway, and what each of them does."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.client import ClusterStatus
from cluster.errors import NotFoundError
from cluster.gateway import (
    anthropic_errors,
    anthropic_messages,
    ollama,
    openai_chat,
    openai_errors,
    openai_responses,
    openai_text,
    openapi,
)
from cluster.gateway.answering import prompt_of
from cluster.gateway.asking import Asking, ClientGone, json_response
from cluster.gateway.dashboard import Dashboard
from cluster.gateway.failures import Failure
from cluster.gateway.guard import Admission, Guard, body_of
from cluster.gateway.metrics import Metrics
from cluster.gateway.question import read
from cluster.gateway.served import Served, name_of, require_name
from cluster.gateway.turns import Turns
from mlx_moe.errors import InvalidRequestError, MoeClusterError

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]
ErrorBody = Callable[[Failure], dict[str, Any]]


class Gateway:
    """All endpoints, over one connection to this machine's node."""

    def __init__(self, served: Served, admission: Admission, *, exact: bool = False) -> None:
        self._served = served
        self._admission = admission
        self._described: dict[str, Any] = {}
        self._turns = Turns()
        self._metrics = Metrics(self._turns)
        self._dashboard = Dashboard(served, self._metrics)
        self._asking = Asking(served, self._turns, self._metrics, exact=exact)

    def app(self, origins: Sequence[str] = ()) -> Starlette:
        """Return the application; web pages of `origins` may use it too."""
        routes = [
            self._route("GET", "/", self._dashboard.page),
            self._route("GET", "/page/{name}", self._dashboard.page),
            self._route("GET", "/health", self.health),
            self._route("GET", "/ready", self.ready),
            self._route("GET", "/metrics", self.metrics),
            self._route("GET", "/openapi.json", self.openapi),
            self._route("GET", "/v1/cluster", self._dashboard.cluster),
            self._route("GET", "/v1/cluster/events", self._dashboard.events),
            self._route("GET", "/v1/cluster/experts", self._dashboard.experts),
            self._route("GET", "/v1/cluster/models", self._dashboard.models),
            self._route("POST", "/v1/cluster/plan", self._dashboard.plan),
            self._route("POST", "/v1/cluster/load", self._dashboard.load),
            self._route("POST", "/v1/cluster/unload", self._dashboard.unload),
            self._route("GET", "/v1/models", self.models),
            self._route("GET", "/v1/models/{name:path}", self.model),
            self._route("POST", "/v1/chat/completions", self.chat_completions),
            self._route("POST", "/v1/completions", self.completions),
            self._route("POST", "/v1/responses", self.responses),
            self._route("POST", "/v1/messages", self.messages),
            self._route("POST", "/v1/messages/count_tokens", self.count_tokens),
            self._route("POST", "/api/chat", self.ollama_chat),
            self._route("POST", "/api/generate", self.ollama_generate),
            self._route("POST", "/api/show", self.ollama_show),
            self._route("GET", "/api/tags", self.ollama_tags),
            self._route("GET", "/api/ps", self.ollama_tags),
            self._route("GET", "/api/version", self.ollama_version),
        ]
        self._described = openapi.document(routes)
        middleware = [Middleware(Guard)]
        if origins:
            anything = ["*"]
            middleware.append(
                Middleware(CORSMiddleware, allow_origins=origins, allow_methods=anything, allow_headers=anything)
            )
        return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _no_route})

    def _route(self, method: str, path: str, endpoint: Endpoint) -> Route:
        error_body = _error_body(path)

        async def guarded(request: Request) -> Response:
            try:
                self._admission.admit(request)
                return await endpoint(request)
            except MoeClusterError as error:
                return _failed(error, error_body)
            except (ClientGone, ClientDisconnect):
                return Response(status_code=499)
            except Exception:  # the boundary of the process: the client gets an error in its own shape
                log.exception("event=request_failed request_id=%s", request.state.request_id)
                return _failed(MoeClusterError("the gateway failed; moe-cluster logs says why"), error_body)

        guarded.__doc__ = endpoint.__doc__
        return Route(path, guarded, methods=[method])

    async def health(self, _request: Request) -> Response:
        """Say that this process lives."""
        return json_response({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Say that a model is served; NoClusterError if none is."""
        return json_response({"status": "ready", "model": await self._served.name()})

    async def metrics(self, _request: Request) -> Response:
        """Return Prometheus' text."""
        try:
            status = await self._served.status()
        except MoeClusterError:  # the node is ending or starting: what this process has counted is there still
            status = None
        return Response(self._metrics.text(status), media_type="text/plain; version=0.0.4")

    async def openapi(self, _request: Request) -> Response:
        """Describe these paths by OpenAPI."""
        return json_response(self._described)

    async def models(self, _request: Request) -> Response:
        """List the served model."""
        status = await self._served.status()
        return json_response({"object": "list", "data": [_model(status)] if status.ready else []})

    async def model(self, request: Request) -> Response:
        """Describe the served model. Raises NotFoundError for another name."""
        status = await self._served.status()
        if status.ready is None:
            raise NotFoundError("no model is loaded: moe-cluster up MODEL loads one")
        require_name(request.path_params["name"], status.ready.model)
        return json_response(_model(status))

    async def chat_completions(self, request: Request) -> Response:
        """Answer in OpenAI's chat form."""
        body = read(await body_of(request), openai_chat.ChatBody)
        question = openai_chat.question_of(body)
        return await self._asking.respond(
            request,
            body.model,
            question,
            partial(openai_chat.ChatShape, body),
            is_stream=bool(body.stream),
        )

    async def completions(self, request: Request) -> Response:
        """Continue one or more texts."""
        body = read(await body_of(request), openai_text.TextBody)
        questions = openai_text.questions_of(body)
        if body.stream and len(questions) > 1:
            raise InvalidRequestError("a stream has one prompt: send the others in requests of their own")
        echoes = [await self._echo(body, question.prompt) for question in questions]
        whole = []
        for question, echo in zip(questions, echoes, strict=True):
            shape_of = partial(openai_text.TextShape, body, echo)
            if body.stream or len(questions) == 1:
                return await self._asking.respond(request, body.model, question, shape_of, is_stream=bool(body.stream))
            whole.append(await self._asking.whole(request, body.model, question, shape_of))
        return json_response(openai_text.merged(whole))

    async def responses(self, request: Request) -> Response:
        """Answer in the form of OpenAI's responses."""
        body = read(await body_of(request), openai_responses.ResponsesBody)
        question = openai_responses.question_of(body)
        return await self._asking.respond(
            request,
            body.model,
            question,
            partial(openai_responses.ResponsesShape, body),
            is_stream=bool(body.stream),
        )

    async def messages(self, request: Request) -> Response:
        """Answer in Anthropic's form."""
        body = read(await body_of(request), anthropic_messages.MessagesBody)
        if body.max_tokens is None:
            raise InvalidRequestError("max_tokens is missing")
        question = anthropic_messages.question_of(body)
        return await self._asking.respond(
            request,
            body.model,
            question,
            partial(anthropic_messages.MessagesShape, body),
            is_stream=bool(body.stream),
        )

    async def count_tokens(self, request: Request) -> Response:
        """Count the tokens of a prompt in Anthropic's form."""
        body = read(await body_of(request), anthropic_messages.MessagesBody)
        question = anthropic_messages.question_of(body)
        async with self._served.model(body.model) as model:
            return json_response({"input_tokens": len(await prompt_of(model, question))})

    async def ollama_chat(self, request: Request) -> Response:
        """Answer in Ollama's chat form."""
        return await self._ollama(request, chat=True)

    async def ollama_generate(self, request: Request) -> Response:
        """Continue a prompt in Ollama's form."""
        return await self._ollama(request, chat=False)

    async def ollama_show(self, request: Request) -> Response:
        """Describe the served model in Ollama's form."""
        body = read(await body_of(request), ollama.AskBody)
        async with self._served.model(body.model) as model:
            return json_response(ollama.shown(model.description))

    async def ollama_tags(self, _request: Request) -> Response:
        """List the served model in Ollama's form."""
        return json_response({"models": ollama.listed(await self._served.status())})

    async def ollama_version(self, _request: Request) -> Response:
        """Say a version that Ollama's clients take."""
        return json_response({"version": ollama.VERSION})

    async def _ollama(self, request: Request, *, chat: bool) -> Response:
        body = read(await body_of(request), ollama.AskBody)
        if ollama.is_only_loading(body, chat=chat):
            require_name(body.model, await self._served.name())
            return json_response(ollama.loaded(await self._served.name(), chat=chat))
        question = ollama.question_of(body, chat=chat)
        return await self._asking.respond(
            request,
            body.model,
            question,
            partial(ollama.OllamaShape, chat=chat),
            is_stream=body.stream is not False,
        )

    async def _echo(self, body: openai_text.TextBody, prompt: str | tuple[int, ...]) -> str:
        if isinstance(prompt, str) or not body.echo:
            return prompt if isinstance(prompt, str) else ""
        async with self._served.model(body.model) as model:
            return await model.decode(prompt, skip_special_tokens=False)


def _model(status: ClusterStatus) -> dict[str, Any]:
    assert status.ready is not None
    return {
        "id": name_of(status.ready.model),
        "object": "model",
        "created": 0,
        "owned_by": "moe-cluster",
        "max_model_len": status.ready.context_tokens,
    }


def _failed(error: MoeClusterError, error_body: ErrorBody) -> Response:
    failure = Failure.of(error)
    headers = {} if failure.retry_after_s is None else {"retry-after": str(failure.retry_after_s)}
    return json_response(error_body(failure), failure.status, headers)


async def _no_route(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    what = f"{request.method} {request.url.path[:200]}"
    failure = Failure(exc.status_code, "no_such_endpoint", f"{what}: there is no such endpoint")
    return json_response(_error_body(request.url.path)(failure), exc.status_code)


def _error_body(path: str) -> ErrorBody:
    """Return what words the errors of the API that a path belongs to."""
    if path.startswith("/api/"):
        return ollama.error_body
    return anthropic_errors.error_body if path.startswith("/v1/messages") else openai_errors.error_body
