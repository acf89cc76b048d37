"""What people read when a connection fails: every failure is provoked for real, and gRPC's own words are not shown."""

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import grpc
import pytest

from cluster.errors import NodeLostError
from cluster.rpc_errors import translated
from cluster.rpc_words import in_words
from cluster.trust import SERVER_OPTIONS, Authority, Credentials, Insecure, MutualTLS, NodeIdentity
from tests.cluster.trust.first_node import FirstNode
from tests.patience import PATIENCE_S

LIBRARY = re.compile(r"SSL|TSI|OPENSSL|ipv[46]:|[A-Z]{3,}_|all addresses|Socket|routines|<class")


def late(first_node: FirstNode, days: int) -> Authority:
    """Return the authority with a clock that is this many days ahead."""
    return Authority.load(first_node.directory / "authority", lambda: datetime.now(UTC) + timedelta(days=days))


def expired(first_node: FirstNode) -> MutualTLS:
    return MutualTLS(first_node.admit("server", late(first_node, -11 * 365)))


def not_yet_valid(first_node: FirstNode) -> MutualTLS:
    return MutualTLS(first_node.admit("server", late(first_node, 30)))


def foreign(first_node: FirstNode) -> MutualTLS:
    other = FirstNode(first_node.directory / "other").authority
    return MutualTLS(replace(first_node.admit("server", other), ca_certificate=first_node.authority.certificate))


def another(first_node: FirstNode) -> MutualTLS:
    return MutualTLS(first_node.admit("another"))


def insecure(_: FirstNode) -> Insecure:
    return Insecure("a" * 16)


def good(first_node: FirstNode) -> MutualTLS:
    return MutualTLS(first_node.admit("server"))


async def failure(server: Credentials, client: Credentials, server_id: str) -> str:
    """Return what a person reads of a call to a server."""
    listening = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_port(listening, "127.0.0.1:0")
    await listening.start()
    try:
        return await said_of(f"127.0.0.1:{port}", client, server_id)
    finally:
        await listening.stop(None)


async def said_of(target: str, client: Credentials, server_id: str, timeout_s: float = PATIENCE_S) -> str:
    async with client.aio_channel(target, server_id) as channel:
        call: Any = channel.unary_unary("/test.Test/Anything")
        with pytest.raises(NodeLostError) as caught, translated("mac-2"):
            await call(b"", timeout=timeout_s)
    assert not LIBRARY.search(str(caught.value)), caught.value
    return str(caught.value)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (expired, "its certificate has expired by the clock of this machine (20"),
        (not_yet_valid, "its certificate is not valid yet by the clock of this machine (20"),
        (foreign, "a node of another cluster, or another program, is there"),
        (another, "another node is at this address now"),
        (insecure, "does not speak TLS"),
        (good, "its moe-cluster does not have this call"),
    ],
)
def test_what_a_server_is_that_the_caller_did_not_mean(
    first_node: FirstNode, server: Callable[[FirstNode], Credentials], said: str
) -> None:
    client, server_id = MutualTLS(first_node.admit("client")), first_node.admit("server").node_id
    assert said in asyncio.run(failure(server(first_node), client, server_id))


@pytest.mark.parametrize("kind", ["expired", "not yet valid", "foreign", "insecure"])
def test_a_caller_that_is_not_let_in_is_told_so(first_node: FirstNode, kind: str) -> None:
    server = first_node.admit("server")
    identity: NodeIdentity = first_node.admit("client")
    client: Credentials = Insecure(identity.node_id)
    if kind == "foreign":
        other = FirstNode(first_node.directory / "other").authority
        client = MutualTLS(replace(first_node.admit("client", other), ca_certificate=first_node.authority.certificate))
    elif kind != "insecure":
        days = 30 if kind == "not yet valid" else -11 * 365
        client = MutualTLS(first_node.admit("client", late(first_node, days)))
    assert "refuses this node's certificate" in asyncio.run(failure(MutualTLS(server), client, server.node_id))


@contextmanager
def program(answer: bytes | None) -> Iterator[str]:
    """Yield where another program listens: it answers so, resets the connection (b""), or never says a word."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection)
            if answer == b"":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
            elif answer:
                connection.sendall(answer)

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve)
        thread.start()
        try:
            yield "{}:{}".format(*server.getsockname())
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
        (b"", "the connection was reset"),
        (None, "accepts the connection and then says nothing"),
    ],
)
def test_what_another_program_at_the_port_does(first_node: FirstNode, answer: bytes | None, said: str) -> None:
    client = MutualTLS(first_node.admit("client"))
    with program(answer) as target:
        assert said in asyncio.run(said_of(target, client, "b" * 16))


def test_nobody_there_no_name_and_no_time_left(first_node: FirstNode) -> None:
    client = MutualTLS(first_node.admit("client"))
    assert "connection refused" in asyncio.run(said_of("127.0.0.1:1", client, "b" * 16))
    assert "its name is not known here" in asyncio.run(said_of("nobody.invalid:7420", client, "b" * 16))
    with program(None) as target:
        assert "no answer in time" in asyncio.run(said_of(target, client, "b" * 16, timeout_s=0.05))


def test_a_text_that_nobody_knows_keeps_its_cause() -> None:
    assert (
        in_words("failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:5: Moon phase") == "Moon phase"
    )
    assert in_words("Moon phase: full") == "Moon phase: full"


def test_a_call_that_its_callee_cancels_is_explained() -> None:
    assert in_words("CANCELLED") == "it is shutting down"
