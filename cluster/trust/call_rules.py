"""Call rules: which node may make which call of a server, and how many at once; one table for each server.

A certificate says who calls, not what the caller may do: a member of the cluster is a guest on every other node.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from cluster.errors import ClusterError, TrustError
from cluster.rpc_errors import reported
from cluster.trust.credentials import Credentials

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


BURST_S = 2.0
MAX_RATES = 1024


@dataclass(frozen=True, slots=True)
class Rule:
    """`refusal` returns why a node may not make the call, "" if it may.

    A node may make `at_once` of them at once, and `per_s` in a second, or a burst of twice as many.
    """

    refusal: Callable[[str], str]
    at_once: int
    per_s: float = math.inf


class CallRules(grpc.aio.ServerInterceptor):
    """Refuses calls that break the rules, before their messages are read. Calls without a rule are refused."""

    def __init__(self, credentials: Credentials, rules: Mapping[str, Rule]) -> None:
        self._credentials = credentials
        self._rules = rules
        self._in_progress: Counter[tuple[str, str]] = Counter()
        self._free_at: dict[tuple[str, str], float] = {}  # when the calls so far are made up for

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return a call's handler behind its rule, for gRPC."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler, handler_call_details.method)

    def _guarded(self, handler: Handler, method: str) -> Handler:
        serve: Any = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream

        async def call(request: Any, context: Context) -> Any:
            async with self._admitted(method, context):
                return await serve(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._admitted(method, context) as caller, aclosing(serve(request, context)) as replies:
                async for reply in replies:
                    if refusal := self._refusal(caller, method):  # it was removed since
                        async with reported(context):
                            raise TrustError(refusal)
                    yield reply

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        guarded: Any = stream if handler.response_streaming else call
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    @asynccontextmanager
    async def _admitted(self, method: str, context: Context) -> AsyncIterator[str]:
        async with reported(context):
            caller = self._credentials.peer_id(context)
            self._require(caller, method)
        key = caller, method
        self._in_progress[key] += 1
        try:
            yield caller
        finally:
            self._in_progress[key] -= 1
            if not self._in_progress[key]:
                del self._in_progress[key]

    def _require(self, caller: str, method: str) -> None:
        """Raise TrustError if a node may not make a call, ClusterError if it makes too many."""
        if refusal := self._refusal(caller, method):
            raise TrustError(refusal)
        rule, name = self._rules[method], method.rpartition("/")[2]
        if self._in_progress[caller, method] >= rule.at_once:
            raise ClusterError(
                f"node {caller} waits for {rule.at_once} calls of {name} here already: try again when they have ended"
            )
        if rule.per_s < math.inf and not self._has_time((caller, method), 1 / rule.per_s, time.monotonic()):
            raise ClusterError(f"node {caller} calls {name} more than {rule.per_s:g} times a second")

    def _refusal(self, caller: str, method: str) -> str:
        rule = self._rules.get(method)
        return "this call is nobody's" if rule is None else rule.refusal(caller)

    def _has_time(self, key: tuple[str, str], seconds: float, now: float) -> bool:
        """Take the seconds of a call from its caller's time; whether there were any."""
        free_at = max(self._free_at.get(key, now), now)
        if free_at - now > BURST_S:
            return False
        self._free_at[key] = free_at + seconds
        if len(self._free_at) > MAX_RATES:
            self._free_at = {one: at for one, at in self._free_at.items() if at > now}
        return True
