"""Errors over gRPC: what a server raises is what its caller gets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import cluster.errors
from cluster.errors import ClusterError, NodeLostError
from cluster.rpc_errors import error_named, reported, translated
from cluster.worker.messages import LinkError
from mlx_moe.errors import InvalidRequestError, MoeClusterError
from tests.patience import PATIENCE_S


def kinds(kind: type[MoeClusterError] = MoeClusterError) -> Iterator[type[MoeClusterError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.startswith(("cluster.", "mlx_moe.")):
            yield from kinds(child)


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in kinds()]
    assert LinkError.code in codes
    assert len(set(codes)) == len(codes)


def test_the_whole_tree_is_drawn_as_it_is() -> None:
    drawn, above = {}, [Exception.__name__]
    for line in (cluster.errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w+Error)", line):
            depth = 1 + len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = (above[depth - 1], line.endswith("retryable"))
    parents = {kind: kind.__mro__[1].__name__ for kind in kinds()}
    assert drawn == {kind.__name__: (parent, kind.retryable) for kind, parent in parents.items()}


def call_that_raises(error: Exception) -> None:
    """Raise an error in a server; let its caller translate what comes."""

    async def fail(_request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        async with reported(context):
            raise error

    class Handler(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
            return grpc.unary_unary_rpc_method_handler(fail)

    async def run() -> None:
        server = grpc.aio.server(handlers=(Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                with translated("mac-2"):
                    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/thing")
                    await method(b"", timeout=PATIENCE_S)
        finally:
            await server.stop(None)

    asyncio.run(run())


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_its_own_kind_with_its_text(kind: type[MoeClusterError]) -> None:
    with pytest.raises(MoeClusterError) as caught:
        call_that_raises(kind("needs 64.0 GiB, größer als 61,2", node_id="3f" * 16, request_id="0a" * 16))
    error = caught.value
    assert type(error) is kind
    assert str(error) == "needs 64.0 GiB, größer als 61,2"
    assert (error.node_id, error.sequence_id, error.request_id) == ("3f" * 16, None, "0a" * 16)


def test_a_text_longer_than_a_header_is_cut() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        call_that_raises(InvalidRequestError("x" * 100_000))
    assert len(str(caught.value)) == 4000


def test_whoever_does_not_answer_is_named() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/thing")
        with pytest.raises(NodeLostError, match="mac-2 does not answer: nothing listens there"), translated("mac-2"):
            method(b"", timeout=PATIENCE_S)


def test_a_code_of_a_newer_version_is_an_error_all_the_same() -> None:
    assert type(error_named("out_of_coffee", "what")) is MoeClusterError
    assert type(error_named(ClusterError.code, "what")) is ClusterError
