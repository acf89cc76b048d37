"""Guard: what holds for every request: which hosts it may name, whose key it has, its id, and how large it may be."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import uuid
from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.errors import TooLongError, TrustError
from cluster.gateway.keys import Keys
from mlx_moe.errors import BusyError, InvalidRequestError

MAX_BODY_BYTES = 32 << 20
"""Larger than any context, much smaller than memory."""

BODY_S = 60.0
"""How long a body may take: each that does not end holds one of a limited number of connections."""

OTHER_SITES = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site, which browsers send, for pages of other origins. Following a link to GET is no harm."""

OPEN_PATHS = ("/health",)
"""What needs no key: a load balancer has none."""


class Guard:
    """Wraps an application. Refuses nothing itself: `admit` does, within the application's handling of errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give a request its id, and its answer the headers that say it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, client="", is_crowded=state.get("is_crowded", False))
        named = [(b"x-request-id", request_id.encode()), (b"request-id", request_id.encode())]

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *named, (b"x-content-type-options", b"nosniff")]
            await send(message)

        await self._app(scope, receive, sent)


class Admission:
    """Decides whether a request may be answered at all. Without `keys` everybody may who reaches this port."""

    def __init__(self, keys: Keys | None, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._keys = keys
        self._origins = origins
        own = socket.gethostname().lower()
        self._hosts = {"localhost", own, f"{own.partition('.')[0]}.local", *(host.lower() for host in hosts)}

    def admit(self, request: Request) -> None:
        """Note whose request it is.

        Raises:
            InvalidRequestError: it names a host that this machine is not, or was made by another site's page: a
                browser sends those too, without showing the page the answer.
            TrustError: it has no key, or one that is unknown.
            BusyError: there are too many connections.
        """
        if request.state.is_crowded and request.url.path not in OPEN_PATHS:
            raise BusyError(
                "there are too many connections, all with requests that are being answered: try again later"
            )
        name = _host(request.headers.get("host", ""))
        if name not in self._hosts and not _is_address(name):
            raise InvalidRequestError(f"this server is not {name[:200]!r}: moe-cluster serve --allow-host adds a name")
        origin = request.headers.get("origin")
        if origin is None and request.method == "POST" and request.headers.get("sec-fetch-site") in OTHER_SITES:
            origin = "another origin"
        if origin is not None and not self._is_allowed(origin, request.headers.get("host", "")):
            raise InvalidRequestError(f"pages of {origin[:200]!r} may not use it: moe-cluster serve --cors allows that")
        request.state.client = request.client.host if request.client else ""
        if self._keys is None or request.url.path in OPEN_PATHS:
            return
        owner = self._keys.owner(_key(request))
        if owner is None:
            raise TrustError("the API key is missing or wrong: moe-cluster key create NAME makes one")
        request.state.client = f"key:{owner}"

    def _is_allowed(self, origin: str, host: str) -> bool:
        own = origin.partition("://")[2] == host
        return own or "*" in self._origins or origin in self._origins


async def body_of(request: Request) -> bytes:
    """Return the body.

    Raises:
        TooLongError: it is longer than MAX_BODY_BYTES; before it is read where its length says so.
        InvalidRequestError: it did not arrive within BODY_S.
    """
    length = request.headers.get("content-length", "0")
    size = 0
    chunks: list[bytes] = []
    if length.isdecimal() and len(length) < 20 and int(length) > MAX_BODY_BYTES:
        size = int(length)
    else:
        try:
            async with asyncio.timeout(BODY_S):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > MAX_BODY_BYTES:
                        break
                    chunks.append(chunk)
        except TimeoutError:
            raise InvalidRequestError(f"the body did not arrive within {BODY_S:g} s: {size:,} bytes did") from None
    if size > MAX_BODY_BYTES:
        raise TooLongError(f"the body has more than {MAX_BODY_BYTES:,} bytes, the most allowed")
    return b"".join(chunks)


def _key(request: Request) -> str:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def _host(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
