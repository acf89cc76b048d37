"""ToxicProxy: a TCP proxy that spoils connections, each direction by itself, and can be changed while it runs.

A client names where it wants to go by HTTP CONNECT, as gRPC does with a channel that has a proxy, so one port leads
everywhere. Knows nothing of clusters: see `network`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.faults.toxics import NONE, Toxics

PIECE_BYTES = 64 << 10
PIECES = 64
"""Pieces that may be on their way in one direction: its sender waits beyond that."""

LOOK_S = 0.005
"""How often a direction that is held looks whether it may go on."""

_RESET = struct.pack("ii", 1, 0)
_HEAD_END = b"\r\n\r\n"

Opened = Callable[["Link"], Awaitable[None]]
"""Called with a new link before its first byte is forwarded, to set its toxics."""


class Link:
    """One connection through the proxy. `there` is what happens to bytes towards the target, `back` to the others."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.there = NONE
        self.back = NONE
        self.is_open = True
        self._ends: list[asyncio.StreamWriter] = []
        self._loop = asyncio.get_running_loop()
        self._running: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Close it on both sides with an RST instead of a FIN; from any thread."""
        self._loop.call_soon_threadsafe(self._reset)

    async def run(
        self, client: tuple[asyncio.StreamReader, asyncio.StreamWriter], chance: random.Random, opened: Opened
    ) -> None:
        """Connect to the target and forward bytes until both directions have ended."""
        self._running = asyncio.current_task()
        self._ends.append(client[1])
        try:
            await opened(self)
            while self.there.is_black_hole or self.back.is_black_hole:
                await asyncio.sleep(LOOK_S)
            host, _, port = self.target.rpartition(":")
            target = await asyncio.open_connection(host.strip("[]"), int(port), limit=PIECE_BYTES)
            self._ends.append(target[1])
            client[1].write(b"HTTP/1.1 200 OK" + _HEAD_END)
            for end in self._ends:
                end.transport.set_write_buffer_limits(PIECE_BYTES)
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            there = _Direction(client[0], target[1], lambda: self.there, chance)
            back = _Direction(target[0], client[1], lambda: self.back, chance)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(there.run())
                directions.create_task(back.run())
            self._close()
        except* OSError:  # one end was reset, so the other is; or the target cannot be reached
            self._reset()
        finally:
            self.is_open = False
            self._close()

    def _reset(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()
        if self._running is not None and self._running is not asyncio.current_task(self._loop):
            self._running.cancel()

    def _close(self) -> None:
        for end in self._ends:
            end.close()


class _Direction:
    """The bytes from one end to the other: taken, delayed, spoiled, written."""

    def __init__(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        toxics: Callable[[], Toxics],
        chance: random.Random,
    ) -> None:
        self._source = source
        self._sink = sink
        self._toxics = toxics
        self._chance = chance
        self._on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES)
        self._loop = asyncio.get_running_loop()
        self._arrived_bytes = 0

    async def run(self) -> None:
        """Forward until the source ends. Raises OSError if an end was reset."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take())
            both.create_task(self._give())

    async def _take(self) -> None:
        arrives_at = 0.0
        while True:
            await self._until_passable()
            data = await self._source.read(PIECE_BYTES)
            arrives_at = max(arrives_at, self._loop.time() + self._toxics().delay_s(self._chance))
            await self._on_the_way.put((arrives_at, data))
            if not data:
                return

    async def _give(self) -> None:
        while True:
            arrives_at, data = await self._on_the_way.get()
            await asyncio.sleep(arrives_at - self._loop.time())
            if not data:
                await self._until_passable()
                break
            for piece in self._toxics().slices(data):
                await self._until_passable()
                await self._write(piece)
        if self._sink.can_write_eof():
            self._sink.write_eof()

    async def _write(self, piece: bytes) -> None:
        toxics = self._toxics()
        if toxics.is_half_closed:
            with suppress(OSError):  # twice
                self._sink.write_eof()
            return
        if toxics.bytes_per_s is not None:
            await asyncio.sleep(len(piece) / toxics.bytes_per_s)
        if toxics.cut_after_bytes is not None:
            left = toxics.cut_after_bytes - self._arrived_bytes
            self._arrived_bytes += len(piece)
            if left < len(piece):
                self._sink.write(piece[: max(0, left)])
                await self._sink.drain()
                raise ConnectionResetError("cut")
        self._sink.write(toxics.spoiled(piece, self._chance))
        await self._sink.drain()

    async def _until_passable(self) -> None:
        while self._toxics().is_black_hole:
            await asyncio.sleep(LOOK_S)


class ToxicProxy:
    """Listens at `port` of loopback from `start` to `close`; `links` are the open ones."""

    def __init__(self, opened: Opened, seed: int) -> None:
        self.links: list[Link] = []
        self.port = 0
        self._opened = opened
        self._chance = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Close all links and the port."""
        assert self._server is not None
        self._server.close()
        for serving in list(self._serving):
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = None
        try:
            method, target, _ = (await reader.readuntil(_HEAD_END)).decode().split(maxsplit=2)
            if method != "CONNECT":
                return
            link = Link(target)
            self.links.append(link)
            await link.run((reader, writer), self._chance, self._opened)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError, ValueError):
            pass  # the client has gone, the link was reset, or this proxy is closed
        finally:
            if link is not None:
                self.links.remove(link)
            writer.close()
