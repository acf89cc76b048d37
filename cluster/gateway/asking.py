"""Asking: answers a question over HTTP, in the shape of one API: whole, or as a stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cluster.client import ModelClient
from cluster.gateway.answering import End, Piece, Prefill, answer, prompt_of
from cluster.gateway.events import with_pauses
from cluster.gateway.failures import Failure
from cluster.gateway.metrics import Metrics
from cluster.gateway.question import Question
from cluster.gateway.served import Served, name_of
from cluster.gateway.shape import Accepted, Shape, Whole
from cluster.gateway.turns import Turns
from mlx_moe.decoding.request import Token
from mlx_moe.errors import BusyError, MoeClusterError
from mlx_moe.text.dialects import merged

log = logging.getLogger(__name__)

BUSY_S = 30.0
"""How long a request that found no room in the KV cache is tried again before it is refused."""

BUSY_AGAIN_S = 0.25

T = TypeVar("T")
Event = Prefill | Piece | End


class Asking:
    """Answers the questions of all APIs."""

    def __init__(self, served: Served, turns: Turns, metrics: Metrics, *, exact: bool) -> None:
        self.served = served
        self._turns = turns
        self._metrics = metrics
        self._exact = exact

    async def respond(
        self,
        request: Request,
        model_name: str | None,
        question: Question,
        shape_of: Callable[[Accepted], Shape],
        *,
        is_stream: bool,
    ) -> Response:
        """Answer a question.

        A stream begins when the model has accepted the request, so that a refusal has a status of its own.

        Raises:
            MoeClusterError: it is refused, or failed before the stream began.
            ClientGone: nobody waits for the answer any more.
        """
        if not is_stream:
            return json_response(await self.whole(request, model_name, question, shape_of))
        async with AsyncExitStack() as stack:
            asked = await self._ask(request, model_name, question, shape_of, stack)
            stream = self._stream(request, asked, stack.pop_all())
            return StreamingResponse(stream, media_type=asked.shape.media_type, headers={"cache-control": "no-cache"})

    async def whole(
        self, request: Request, model_name: str | None, question: Question, shape_of: Callable[[Accepted], Shape]
    ) -> Any:
        """Return the whole answer as one JSON value. Raises as `respond`."""
        async with AsyncExitStack() as stack:
            asked = await self._ask(request, model_name, question, shape_of, stack)
            return asked.shape.whole(await until_gone(request, _collected(asked.events)))

    async def _ask(
        self,
        request: Request,
        model_name: str | None,
        question: Question,
        shape_of: Callable[[Accepted], Shape],
        stack: AsyncExitStack,
    ) -> _Asked:
        """Wait for a turn, and begin the answer; `stack` ends both."""
        await stack.enter_async_context(self._turns.turn(request.state.client))
        model = await stack.enter_async_context(self.served.model(model_name))
        prompt_ids = await until_gone(request, prompt_of(model, question))
        events = await until_gone(request, self._begun(model, question, prompt_ids))
        stack.push_async_callback(events.aclose)
        return _Asked(events, shape_of(Accepted(name_of(model.description.model), len(prompt_ids))))

    async def _begun(self, model: ModelClient, question: Question, prompt_ids: list[int]) -> _Events:
        """Return the events of an answer that was accepted, trying again while the KV cache has no room."""
        deadline = time.monotonic() + BUSY_S
        while True:
            events = _Events(self._metrics.measured(answer(model, question, prompt_ids, exact=self._exact)))
            try:
                await events.begin()
                return events
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(BUSY_AGAIN_S)

    async def _stream(self, request: Request, asked: _Asked, kept: AsyncExitStack) -> AsyncIterator[bytes]:
        """Yield the stream of an answer; it never ends without its end, or the error that cut it."""
        shape = asked.shape
        async with kept:
            if begun := shape.begin():
                yield begun
            try:
                async with aclosing(with_pauses(asked.events)) as paused:  # type: ignore[type-var]
                    async for item in paused:
                        if item is None or isinstance(item, Prefill):
                            written = shape.pause() if item is None else b""
                        else:
                            written = shape.piece(item) if isinstance(item, Piece) else shape.end(item)
                        if written:
                            yield written
            except MoeClusterError as error:
                log.warning("event=stream_cut request_id=%s code=%s", request.state.request_id, error.code)
                yield shape.cut(Failure.of(error))


class _Events:
    """The events of an answer, of which the first has been awaited."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events
        self._first: Event | None = None

    async def begin(self) -> None:
        self._first = await anext(self._events)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        first, self._first = self._first, None
        return await anext(self._events) if first is None else first

    async def aclose(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Asked:
    """An answer that was begun."""

    events: _Events
    shape: Shape


async def _collected(events: _Events) -> Whole:
    pieces: list[Piece] = []
    prompt: dict[int, Token] = {}
    async for event in events:
        if isinstance(event, Piece):
            pieces.append(event)
        elif isinstance(event, Prefill):
            prompt.update((token.position, token) for token in event.scored)
        else:
            parts = merged([*(part for piece in pieces for part in piece.parts), *event.parts])
            return Whole(parts, [piece.token for piece in pieces], event, [prompt[n] for n in sorted(prompt)])
    raise asyncio.CancelledError  # the answer was cancelled, which only this process does


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """Do work as long as the client is there; cancel it and raise ClientGone when it goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for waiting in (task, gone):
            waiting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await waiting


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class ClientGone(Exception):  # noqa: N818
    """The client has closed its connection: nobody reads an answer."""


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")
