"""Connections: a node that receives nothing is lost, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from cluster.errors import NodeLostError
from cluster.trust import Insecure
from cluster.wire import worker_pb2 as pb
from cluster.worker import connections as connections_module
from cluster.worker.connections import Connections
from cluster.worker.messages import FRAMES_METHOD, Kind, Message
from mlx_moe.errors import MoeClusterError
from tests.patience import PATIENCE_S


class Stuck(grpc.GenericRpcHandler):
    """Accepts a stream and reads nothing of it."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        assert details.method == FRAMES_METHOD
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, _messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(())
        await asyncio.Event().wait()
        yield b""


def test_a_node_that_receives_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "SEND_S", 0.1)

    async def scenario() -> MoeClusterError:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Stuck(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        lost: asyncio.Future[MoeClusterError] = asyncio.get_running_loop().create_future()
        worker = pb.WorkerAddress(node_id="b", name="mac-2", target=f"127.0.0.1:{port}")
        links = Connections(Insecure("a"), [worker], lost.set_result)
        stream = await links.frames_to("b")
        async with asyncio.timeout(PATIENCE_S):
            while not lost.done():
                await stream.send(Message(Kind.PREFILL, "a" * 32, payload=bytes(1 << 20)))
        await links.close()
        await server.stop(None)
        return await lost

    assert isinstance(asyncio.run(scenario()), NodeLostError)
