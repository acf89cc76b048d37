"""How many connections there may be, and how long one may stand without a request: real sockets, no node."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from cluster.client import GatewayOptions
from cluster.gateway import connection
from cluster.gateway.app import Gateway
from cluster.gateway.connection import Connection
from cluster.gateway.guard import Admission
from cluster.gateway.served import Served
from cluster.gateway.server import bind, config_of
from cluster.home import Home
from cluster.trust.identity import dns_name
from tests.cluster.trust.first_node import FirstNode
from tests.patience import PATIENCE_S

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
READY = HEALTH.replace(b"health", b"ready")
HALF = HEALTH[:-4]
BODY = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Held(Gateway):
    """A gateway whose /health answers when it is told to."""

    def __init__(self, home: Path) -> None:
        super().__init__(Served(Home(home)), Admission(None))
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Semaphore(0)

    async def health(self, request: Request) -> Response:
        self.asked.release()
        await self.answers.wait()
        return await super().health(request)


class Clients:
    """Connections to one port of this machine, from several of its addresses."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: list[Stream] = []

    async def open(self, sent: bytes, host: str = "127.0.0.1", **tls: Any) -> Stream:
        stream = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(host, 0), **tls)
        self._streams.append(stream)
        stream[1].write(sent)
        return stream

    async def close(self) -> None:
        for _, writer in self._streams:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(gateway: Gateway, certificate: str = "", key: str = "") -> AsyncIterator[Clients]:
    options = GatewayOptions(port=0, certificate=certificate, key=key)
    with closing(bind(options)) as bound:
        server = uvicorn.Server(config_of(gateway.app(), options))
        task = asyncio.create_task(server.serve([bound]))
        clients = Clients(bound.getsockname()[1])
        try:
            yield clients
        finally:
            await clients.close()
            server.should_exit = True
            await task


async def end_of(stream: Stream) -> bytes:
    """Return all that comes until the server closes the connection."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await stream[0].read()
    except ConnectionResetError:
        return b""


async def head_of(stream: Stream) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await stream[0].readuntil(b"\r\n\r\n")


def test_a_head_that_does_not_end_is_closed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.2)

    async def run() -> None:
        async with serving(Held(tmp_path)) as clients:
            silent, half, second = [await clients.open(sent) for sent in (b"", HALF, HEALTH + HALF)]
            refused = await clients.open(BODY.replace(b"localhost", b"evil.example"))  # its body is not read
            slow = await clients.open(HALF)

            async def trickle() -> None:
                while not slow[0].at_eof():
                    slow[1].write(b"x")
                    await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            assert [await end_of(one) for one in (silent, half, slow)] == [b""] * 3
            assert (await end_of(second)).startswith(b"HTTP/1.1 200")
            assert (await end_of(refused)).startswith(b"HTTP/1.1 400")
            trickling.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("begun", [b"", HALF, BODY], ids=["silent", "half a head", "half a body"])
def test_the_oldest_unfinished_request_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(connection, "PER_ADDRESS", 5)

    async def run() -> None:
        async with serving(Held(tmp_path)) as clients:
            crowd = [await clients.open(begun) for _ in range(12)]
            assert (await head_of(await clients.open(HEALTH))).startswith(b"HTTP/1.1 200")
            assert [await end_of(one) for one in crowd[:8]] == [b""] * 8
            for one in crowd[8:]:
                one[1].write(HEALTH[len(begun) :] if begun != BODY else b" " * 98 + b"}")
                assert (await head_of(one)).startswith(b"HTTP/1.1 400" if begun == BODY else b"HTTP/1.1 200")

    asyncio.run(run())


@pytest.mark.skipif(sys.platform == "darwin", reason="its loopback has one address")
def test_what_one_address_opens_takes_no_place_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PER_ADDRESS", 5)

    async def run() -> None:
        async with serving(Held(tmp_path)) as clients:
            other = await clients.open(HALF, "127.0.0.2")
            crowd = [await clients.open(HALF) for _ in range(6)]
            assert await end_of(crowd[0]) == b""
            other[1].write(HEALTH[len(HALF) :])
            assert (await head_of(other)).startswith(b"HTTP/1.1 200")

    asyncio.run(run())


def test_where_all_requests_are_being_answered_others_are_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 4)

    async def run() -> None:
        gateway = Held(tmp_path)
        gateway.answers.clear()
        async with serving(gateway) as clients:
            answered = [await clients.open(HEALTH) for _ in range(4)]
            for _ in answered:
                await gateway.asked.acquire()
            refused = await end_of(await clients.open(READY))
            assert refused.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 2" in refused
            assert b"too many connections" in refused
            health = await clients.open(HEALTH)
            gateway.answers.set()
            for one in (*answered, health):
                assert (await head_of(one)).startswith(b"HTTP/1.1 200")

    asyncio.run(run())


def test_it_is_so_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PER_ADDRESS", 5)
    identity = FirstNode(tmp_path).admit("server")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(identity.certificate)
    key.write_bytes(identity.private_key)
    tls: dict[str, Any] = {
        "ssl": ssl.create_default_context(cadata=identity.ca_certificate.decode()),
        "server_hostname": dns_name(identity.node_id),
    }

    async def run() -> None:
        async with serving(Held(tmp_path), str(certificate), str(key)) as clients:
            crowd = [await clients.open(HALF, **tls) for _ in range(6)]
            assert (await head_of(await clients.open(HEALTH, **tls))).startswith(b"HTTP/1.1 200")
            assert [await end_of(one) for one in crowd[:2]] == [b""] * 2
            assert await end_of(await clients.open(HEALTH)) == b""  # not without TLS

    asyncio.run(run())


def test_addresses_of_one_ipv6_network_are_one_client() -> None:
    network_of = connection._network_of
    assert network_of("fd00:1::1%en0") == network_of("fd00:1::ffff") != network_of("fd00:2::1")
    assert network_of("10.0.0.1") != network_of("10.0.0.2")


def test_the_server_uses_these_connections(tmp_path: Path) -> None:
    config = config_of(Held(tmp_path).app(), GatewayOptions())
    config.load()
    assert config.http_protocol_class is Connection
