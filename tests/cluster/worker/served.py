"""A served model: the coordinator's calls over a real port, on one machine, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc

from cluster.wire import coordinator_pb2_grpc
from cluster.worker.answering import Answering
from cluster.worker.computing import Computing
from cluster.worker.coordinator_service import CoordinatorService
from cluster.worker.pipeline import Pipeline
from cluster.worker.recording import Recording
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.model import LocalModel


@asynccontextmanager
async def served(
    model: LocalModel, server_options: Sequence[tuple[str, int]] = (), client_options: Sequence[tuple[str, int]] = ()
) -> AsyncIterator[tuple[coordinator_pb2_grpc.CoordinatorStub, Answering]]:
    """Serve a model; yield a client's stub, and what answers."""
    coordinator = Coordinator(model.head, model.config.vocab_size)
    pipeline = Pipeline(Computing(model.stage), Recording("mac-1"), lambda frame: answering.receive(frame))
    answering = Answering(coordinator, pipeline)
    turns = asyncio.create_task(answering.run())
    server = grpc.aio.server(options=server_options)
    service = CoordinatorService(model, answering, cast("Any", None), lambda _: "a")
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=client_options) as channel:
        yield coordinator_pb2_grpc.CoordinatorStub(channel), answering
    await server.stop(None)
    turns.cancel()
