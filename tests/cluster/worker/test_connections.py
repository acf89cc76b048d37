"""Connections: a link that breaks is resumed, one that cannot be is lost, and nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from cluster.errors import NodeLostError
from cluster.trust import Insecure, credentials
from cluster.wire import worker_pb2 as pb
from cluster.worker import frame_stream
from cluster.worker.connections import DATA_OPTIONS, Connections
from cluster.worker.data_service import FramesService
from cluster.worker.frame_stream import RECEIVED_KEY, FrameStream
from cluster.worker.messages import FRAMES_METHOD, Kind, Message
from mlx_moe.errors import MoeClusterError
from tests.faults.proxy import Link, ToxicProxy
from tests.faults.toxics import BLACK_HOLE, NONE, Toxics
from tests.patience import PATIENCE_S

EPOCH = 3


class Stuck(grpc.GenericRpcHandler):
    """Accepts a stream and reads nothing of it."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        assert details.method == FRAMES_METHOD
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, _messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(((RECEIVED_KEY, "0"),))
        await asyncio.Event().wait()
        yield b""


class Way:
    """A link to a receiver through a toxic proxy: what has arrived, and the error of its loss."""

    def __init__(self, proxy: ToxicProxy, links: Connections, arrived: list[int]) -> None:
        self.toxics = NONE
        self.proxy = proxy
        self.links = links
        self.arrived = arrived
        self.lost: asyncio.Future[MoeClusterError] = asyncio.get_running_loop().create_future()

    async def opened(self, link: Link) -> None:
        """Spoil a new connection."""
        link.there, link.back = self.toxics, self.toxics

    def spoil(self, toxics: Toxics) -> None:
        """Spoil the open connections and all new ones."""
        self.toxics = toxics
        for link in self.proxy.links:
            link.there, link.back = toxics, toxics

    async def reset(self) -> None:
        """Reset the connection, as soon as there is one."""
        await until(lambda: self.proxy.links)
        for link in self.proxy.links:
            link.reset()


@asynccontextmanager
async def way(monkeypatch: pytest.MonkeyPatch, handler: grpc.GenericRpcHandler | None = None) -> AsyncIterator[Way]:
    arrived = list[int]()

    async def take(messages: list[Message]) -> None:
        arrived.extend(message.serial for message in messages)

    server = grpc.aio.server(options=DATA_OPTIONS)
    server.add_generic_rpc_handlers((handler or FramesService(EPOCH, take),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ways = list[Way]()
    proxy = ToxicProxy(lambda link: ways[0].opened(link), seed=1)
    await proxy.start()
    monkeypatch.setenv("no_proxy", "")
    others = [option for option in credentials.CHANNEL_OPTIONS if option[0] != "grpc.enable_http_proxy"]
    through = (("grpc.enable_http_proxy", 1), ("grpc.http_proxy", f"http://127.0.0.1:{proxy.port}"))
    monkeypatch.setattr(credentials, "CHANNEL_OPTIONS", (*others, *through))
    worker = pb.WorkerAddress(node_id="b", name="mac-2", target=f"127.0.0.1:{port}")
    links = Connections(Insecure("a"), [worker], EPOCH, lambda error: ways[0].lost.set_result(error))
    ways.append(Way(proxy, links, arrived))
    try:
        yield ways[0]
    finally:
        await links.close()
        await server.stop(None)
        await proxy.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def send(stream: FrameStream, first: int, count: int, size: int = 1000) -> list[int]:
    serials = list(range(first, first + count))
    for serial in serials:
        await stream.send(Message(Kind.PREFILL, "a" * 32, EPOCH, serial, payload=bytes(size)))
    return serials


def test_a_link_that_is_reset_brings_each_message_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with way(monkeypatch) as link:
            stream = await link.links.frames_to("b")
            sent = list[int]()
            for size in (10, 1 << 20, 100_000, 10):
                sent += await send(stream, len(sent), 20, size)
                await link.reset()
                sent += await send(stream, len(sent), 5, size)
            await until(lambda: len(link.arrived) >= len(sent))
            assert link.arrived == sent
            await link.reset()  # with nothing on its way
            sent += await send(stream, len(sent), 1)
            await until(lambda: len(link.arrived) >= len(sent))
            assert link.arrived == sent
            assert not link.lost.done()

    asyncio.run(scenario())


def test_bytes_that_are_changed_on_their_way_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with way(monkeypatch) as link:
            stream = await link.links.frames_to("b")
            link.spoil(Toxics(flip_rate=0.1))
            sent = await send(stream, 0, 40, 10_000)
            link.spoil(NONE)
            await until(lambda: link.lost.done() or len(link.arrived) >= len(sent))
            assert link.arrived == sent

    asyncio.run(scenario())


def test_a_receiver_that_is_silent_for_too_long_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_stream, "SILENCE_S", 3.0)

    async def scenario() -> float:
        async with way(monkeypatch) as link:
            stream = await link.links.frames_to("b")
            await send(stream, 0, 3)
            link.spoil(BLACK_HOLE)
            began = time.monotonic()
            await until(link.lost.done)
            error = link.lost.result()
            assert isinstance(error, NodeLostError)
            assert (error.node_id, "link to node mac-2 broke" in str(error)) == ("b", True)
            await send(stream, 3, 1)  # nobody waits for it
            return time.monotonic() - began

    assert asyncio.run(scenario()) > 3


def test_a_link_of_another_epoch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with way(monkeypatch) as link:
            link.links._epoch = EPOCH - 1
            with pytest.raises(
                NodeLostError, match="no link to node mac-2: it was refused: this link belongs to epoch 3"
            ):
                await link.links.frames_to("b")

    asyncio.run(scenario())


def test_a_node_that_receives_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_stream, "SEND_S", 0.1)

    async def scenario() -> MoeClusterError:
        async with way(monkeypatch, Stuck()) as link:
            stream = await link.links.frames_to("b")
            async with asyncio.timeout(PATIENCE_S):
                while not link.lost.done():
                    await send(stream, 0, 1, 1 << 20)
            return await link.lost

    assert isinstance(asyncio.run(scenario()), NodeLostError)
