"""Ports and channels over real TLS: who gets through, who is known as what, and who is missed when silent."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from cluster.errors import ClusterError
from cluster.trust import CHANNEL_OPTIONS, SERVER_OPTIONS, Authority, Credentials, Insecure, MutualTLS, max_message
from cluster.trust.credentials import Context, Server, server_name
from cluster.trust.identity import dns_name
from tests.cluster.trust.first_node import FirstNode
from tests.patience import PATIENCE_S

METHOD = "/test.Test/WhoAmI"
Flavour = Callable[[FirstNode, str], tuple[Credentials, str]]


def mutual(first_node: FirstNode, name: str) -> tuple[Credentials, str]:
    identity = first_node.admit(name)
    return MutualTLS(identity), identity.node_id


def insecure(first_node: FirstNode, name: str) -> tuple[Credentials, str]:
    node_id = first_node.admit(name).node_id
    return Insecure(node_id), node_id


def add_who_am_i(server: Server, who: Any) -> None:
    handler: Any = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"WhoAmI": handler}),))


@asynccontextmanager
async def aio_server(credentials: Credentials, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    async def who(_: bytes, context: Context) -> bytes:
        return credentials.peer_id(context).encode()

    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_who_am_i(server, who)
    port = credentials.add_port(server, address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextmanager
def thread_server(credentials: Credentials) -> Iterator[str]:
    def who(_: bytes, context: Context) -> bytes:
        return credentials.peer_id(context).encode()

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=SERVER_OPTIONS)
        add_who_am_i(server, who)
        port = credentials.add_port(server, "127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


async def aio_ask(channel: grpc.aio.Channel) -> str:
    async with channel:
        who: Any = channel.unary_unary(METHOD)
        return bytes(await who(b"", timeout=PATIENCE_S)).decode()


def ask(channel: grpc.Channel) -> str:
    with channel:
        who: Any = channel.unary_unary(METHOD)
        return bytes(who(b"", timeout=PATIENCE_S)).decode()


@pytest.mark.parametrize("flavour", [mutual, insecure])
def test_asyncio_and_threads_know_each_other_by_id(first_node: FirstNode, flavour: Flavour) -> None:
    ours, our_id = flavour(first_node, "server")
    theirs, their_id = flavour(first_node, "client")

    async def aio_pair() -> None:
        async with aio_server(ours) as target:
            assert await aio_ask(theirs.aio_channel(target, our_id)) == their_id

    asyncio.run(aio_pair())
    with thread_server(ours) as target:
        assert ask(theirs.channel(target, our_id)) == their_id
    assert ours.insecure == (flavour is insecure)


def test_an_insecure_caller_that_gives_no_id_has_none() -> None:
    with thread_server(Insecure("a" * 16)) as target:
        assert ask(grpc.insecure_channel(target)) == ""
        liar = (("grpc.secondary_user_agent", "moe-cluster-node/../../etc"),)
        assert ask(grpc.insecure_channel(target, liar)) == ""


def years_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=11 * 365)


def without_certificate(first_node: FirstNode, target: str, server_id: str) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(first_node.authority.certificate)
    return grpc.aio.secure_channel(target, credentials, (*CHANNEL_OPTIONS, *server_name(dns_name(server_id))))


def without_tls(_: FirstNode, target: str, server_id: str) -> grpc.aio.Channel:
    return Insecure("a" * 16).aio_channel(target, server_id)


def of_a_foreign_authority(first_node: FirstNode, target: str, server_id: str) -> grpc.aio.Channel:
    foreign = FirstNode(first_node.directory / "foreign").admit("client")
    trusting = replace(foreign, ca_certificate=first_node.authority.certificate)
    return MutualTLS(trusting).aio_channel(target, server_id)


def expired(first_node: FirstNode, target: str, server_id: str) -> grpc.aio.Channel:
    authority = Authority.load(first_node.directory / "authority", years_ago)
    return MutualTLS(first_node.admit("client", authority)).aio_channel(target, server_id)


def certified_by_a_node(first_node: FirstNode, target: str, server_id: str) -> grpc.aio.Channel:
    """Let a node play authority for another: its certificate must not sign."""
    node = first_node.admit("node")
    pem = first_node.directory / "forger" / "authority.pem"
    pem.parent.mkdir()
    pem.touch(mode=0o600)
    pem.write_bytes(node.private_key + node.certificate)
    forged = first_node.admit("client", Authority.load(pem.parent))
    chain = replace(
        forged, certificate=forged.certificate + node.certificate, ca_certificate=first_node.authority.certificate
    )
    return MutualTLS(chain).aio_channel(target, server_id)


@pytest.mark.parametrize(
    "stranger", [without_certificate, without_tls, of_a_foreign_authority, expired, certified_by_a_node]
)
def test_a_server_hears_no_stranger(
    first_node: FirstNode, stranger: Callable[[FirstNode, str, str], grpc.aio.Channel]
) -> None:
    ours, our_id = mutual(first_node, "server")

    async def run() -> None:
        async with aio_server(ours) as target:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await aio_ask(stranger(first_node, target, our_id))
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())


@pytest.mark.parametrize("server", ["another node", "the authority", "expired", "foreign", "insecure"])
def test_a_client_speaks_to_no_other_node_than_it_meant(first_node: FirstNode, server: str) -> None:
    client, _ = mutual(first_node, "client")
    meant = first_node.admit("server").node_id
    past = Authority.load(first_node.directory / "authority", years_ago)
    if server == "another node":
        found: Credentials = mutual(first_node, "another")[0]
    elif server == "the authority":
        authority = first_node.authority
        identity = first_node.admit("server")
        found = MutualTLS(replace(identity, private_key=authority.private_key, certificate=authority.certificate))
    elif server == "expired":
        found = MutualTLS(first_node.admit("server", past))
    elif server == "foreign":
        foreign = FirstNode(first_node.directory / "foreign").authority
        found = MutualTLS(replace(first_node.admit("server", foreign), ca_certificate=first_node.authority.certificate))
    else:
        found = Insecure(meant)

    async def run() -> None:
        async with aio_server(found) as target:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await aio_ask(client.aio_channel(target, meant))
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())


@pytest.mark.parametrize("flavour", [mutual, insecure])
def test_a_port_that_is_taken_is_an_error_that_names_it(first_node: FirstNode, flavour: Flavour) -> None:
    ours, _ = flavour(first_node, "server")

    async def run() -> None:
        async with aio_server(ours) as target:
            with pytest.raises(ClusterError, match=f"cannot listen on {target}: the port is taken.* --port"):
                async with aio_server(ours, target):
                    pass

    asyncio.run(run())


def test_a_proxy_for_the_way_out_is_not_asked(first_node: FirstNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for exception in ("no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(exception, raising=False)
    ours, our_id = mutual(first_node, "server")
    with thread_server(ours) as target:
        assert ask(ours.channel(target, our_id)) == our_id


def test_a_larger_message_passes_where_both_ends_allow_it() -> None:
    async def run() -> None:
        server = grpc.aio.server(options=(*SERVER_OPTIONS, *max_message(8 << 20)))

        async def echo(message: bytes, _: Context) -> bytes:
            return message

        add_who_am_i(server, echo)
        credentials = Insecure("a" * 16)
        target = f"127.0.0.1:{credentials.add_port(server, '127.0.0.1:0')}"
        await server.start()
        message = bytes(5 << 20)
        async with credentials.aio_channel(target, "a" * 16, max_message(8 << 20)) as channel:
            large: Any = channel.unary_unary(METHOD)
            assert await large(message, timeout=PATIENCE_S) == message
        async with credentials.aio_channel(target, "a" * 16) as channel:
            small: Any = channel.unary_unary(METHOD)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await small(message, timeout=PATIENCE_S)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await server.stop(None)

    asyncio.run(run())


STREAMING_SERVER = """
import time
from concurrent.futures import ThreadPoolExecutor
import grpc
from cluster.trust import SERVER_OPTIONS, Insecure

def stream(_, context):
    yield b"first"
    while context.is_active():
        time.sleep(0.1)

server = grpc.server(ThreadPoolExecutor(1), options=SERVER_OPTIONS)
handler = grpc.unary_stream_rpc_method_handler(stream)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Stream": handler}),))
port = Insecure("a" * 16).add_port(server, "127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


def test_a_stopped_process_is_missed_by_its_pings() -> None:
    """Its kernel goes on to acknowledge: this pins what the undocumented `grpc.http2.ping_timeout_ms` does."""
    process = subprocess.Popen([sys.executable, "-c", STREAMING_SERVER], stdout=subprocess.PIPE, text=True)
    with process, Insecure("b" * 16).channel(f"127.0.0.1:{read_line(process)}", "a" * 16) as channel:
        try:
            open_stream: Any = channel.unary_stream("/test.Test/Stream")
            stream = open_stream(b"", timeout=PATIENCE_S)
            assert next(stream) == b"first"
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "ping timeout" in caught.value.details()
        finally:
            process.kill()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
