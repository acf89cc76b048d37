"""The toxic proxy: each fault reaches one direction of a connection, and ends when it is taken away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from tests.faults.proxy import Link, ToxicProxy
from tests.faults.toxics import BLACK_HOLE, NONE, Toxics
from tests.patience import PATIENCE_S

T = TypeVar("T")

SHORT_S = 0.2
"""How long it is watched that nothing arrives."""

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Way:
    """A connection through a proxy: both its ends, and the link between them."""

    def __init__(self, proxy: ToxicProxy, client: Ends, server: Ends) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server

    @property
    def link(self) -> Link:
        (link,) = self.proxy.links
        return link


@asynccontextmanager
async def way(there: Toxics = NONE, back: Toxics = NONE) -> AsyncIterator[Way]:
    accepted: asyncio.Queue[Ends] = asyncio.Queue()

    async def opened(link: Link) -> None:
        link.there, link.back = there, back

    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = ToxicProxy(opened, seed=1)
    await proxy.start()
    client = await asyncio.open_connection("127.0.0.1", proxy.port)
    client[1].write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b" 200 " in await client[0].readuntil(b"\r\n\r\n")
    ends = await accepted.get()
    try:
        yield Way(proxy, client, ends)
    finally:
        for _, writer in (client, ends):
            writer.close()
        await proxy.close()
        server.close()


def run(test: Callable[[], Awaitable[T]]) -> T:
    return asyncio.run(asyncio.wait_for(test(), PATIENCE_S))  # type: ignore[arg-type]


async def silent(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), SHORT_S)
    except TimeoutError:
        return True
    return False


def test_bytes_pass_unchanged_and_both_ends_hear_the_end() -> None:
    async def test() -> None:
        data = bytes(range(256)) * 4000
        async with way() as it:
            for (_, writer), (reader, _) in ((it.client, it.server), (it.server, it.client)):
                writer.write(data)
                assert await reader.readexactly(len(data)) == data
            it.client[1].write_eof()
            assert await it.server[0].read() == b""
            it.server[1].write(b"still")
            assert await it.client[0].readexactly(5) == b"still"  # one direction ends without the other

    run(test)


def test_latency_and_jitter_keep_the_order() -> None:
    async def test() -> None:
        async with way(there=Toxics(latency_s=0.05, jitter_s=0.05)) as it:
            began_s = time.monotonic()
            for n in range(100):
                it.client[1].write(n.to_bytes(2))
                await asyncio.sleep(0.001)
            got = await it.server[0].readexactly(200)
            assert got == b"".join(n.to_bytes(2) for n in range(100))
            assert time.monotonic() - began_s >= 0.1  # all of them were sent over 0.1 s

    run(test)


def test_a_rate_is_not_exceeded_in_one_direction() -> None:
    async def test() -> None:
        async with way(there=Toxics(bytes_per_s=1e6)) as it:
            began_s = time.monotonic()
            it.server[1].write(bytes(4_000_000))
            await it.client[0].readexactly(4_000_000)
            free_s = time.monotonic() - began_s
            it.client[1].write(bytes(300_000))
            await it.server[0].readexactly(300_000)
            assert time.monotonic() - began_s - free_s >= 0.25

    run(test)


def test_a_black_hole_holds_one_direction_and_closes_nothing() -> None:
    async def test() -> None:
        async with way() as it:
            it.link.there = BLACK_HOLE
            it.client[1].write(b"held")
            assert await silent(it.server[0])
            it.server[1].write(b"back")
            assert await it.client[0].readexactly(4) == b"back"
            it.link.there = NONE
            assert await it.server[0].readexactly(4) == b"held"

    run(test)


def test_a_sender_waits_while_a_black_hole_takes_nothing() -> None:
    async def test() -> None:
        async with way() as it:
            it.link.there = BLACK_HOLE
            it.client[1].write(bytes(64 << 20))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(it.client[1].drain(), SHORT_S)
            it.client[1].transport.abort()

    run(test)


def test_a_reset_is_an_rst_at_both_ends() -> None:
    async def test() -> None:
        async with way() as it:
            it.client[1].write(b"x")
            await it.server[0].readexactly(1)
            it.link.reset()
            for reader in (it.client[0], it.server[0]):
                with pytest.raises(ConnectionResetError):
                    await reader.read(1)

    run(test)


def test_slices_arrive_one_by_one() -> None:
    async def test() -> None:
        async with way(there=Toxics(slice_bytes=1)) as it:
            it.client[1].write(b"abc" * 100)
            assert await it.server[0].readexactly(300) == b"abc" * 100

    run(test)


def test_a_flipped_bit_changes_one_bit_of_one_direction() -> None:
    async def test() -> None:
        async with way(there=Toxics(flip_rate=1.0)) as it:
            it.client[1].write(bytes(1000))
            got = await it.server[0].readexactly(1000)
            assert sum(byte.bit_count() for byte in got) == 1
            it.server[1].write(bytes(1000))
            assert await it.client[0].readexactly(1000) == bytes(1000)

    run(test)


def test_a_cut_lets_so_many_bytes_through_and_resets() -> None:
    async def test() -> None:
        async with way(there=Toxics(cut_after_bytes=150)) as it:
            it.client[1].write(bytes(1000))
            assert await it.server[0].readexactly(150) == bytes(150)
            with pytest.raises(ConnectionResetError):
                await it.server[0].readexactly(1)

    run(test)


def test_a_half_closed_direction_ends_at_its_receiver_alone() -> None:
    async def test() -> None:
        async with way() as it:
            it.link.there = Toxics(is_half_closed=True)
            it.client[1].write(b"lost")
            assert await it.server[0].read() == b""
            it.server[1].write(b"back")
            assert await it.client[0].readexactly(4) == b"back"

    run(test)


def test_a_target_that_nobody_listens_at_is_refused() -> None:
    async def test() -> None:
        async with way() as it:
            client = await asyncio.open_connection("127.0.0.1", it.proxy.port)
            client[1].write(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await client[0].readexactly(1)
            client[1].close()

    run(test)
