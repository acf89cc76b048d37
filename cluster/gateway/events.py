"""Server-sent events: the stream of an answer over HTTP, kept alive while nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

KEEP_ALIVE_S = 10.0
"""Clients and proxies give up a silent connection after 30 to 60 s, and a long prompt takes longer."""

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")


def event(data: Any, name: str = "") -> bytes:
    """Return an event with JSON data; `name` is its type, "" for APIs that have none."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"


async def with_pauses(items: AsyncIterator[T], every_s: float = KEEP_ALIVE_S) -> AsyncIterator[T | None]:
    """Yield the items, and None whenever none came for `every_s`. Closing it cancels what is waited for."""
    step: asyncio.Task[T] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait([step], timeout=every_s)
            if not done:
                yield None
                continue
            finished, step = step, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if step is not None:
            step.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await step
        if (close := getattr(items, "aclose", None)) is not None:
            await close()
