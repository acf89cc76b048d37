"""MemoryGuard: where a node's memory runs short requests are refused, where it runs out the newest answer gives way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlx_moe
from cluster.request_message import to_request_message
from cluster.rpc_errors import error_of
from cluster.trust import Insecure
from cluster.wire import worker_pb2 as pb
from cluster.wire import worker_pb2_grpc
from cluster.worker import memory_guard
from cluster.worker.connections import Connections
from cluster.worker.data_service import MemoryService
from cluster.worker.memory_guard import MemoryGuard, MemoryUse
from cluster.worker.parts import ExpertsPart
from mlx_moe import footprint
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request
from mlx_moe.errors import PressureError
from mlx_moe.footprint import footprint_bytes, limited_bytes
from mlx_moe.model import LocalModel
from mlx_moe.pipeline.shard import ExpertShard
from tests.cluster.worker.served import served
from tests.patience import PATIENCE_S

GB = 10**9
MB = 1 << 20
BYTES = st.integers(0, 200 * GB)


@given(BYTES, BYTES, BYTES)
def test_it_is_short_before_it_is_out_and_neither_by_what_is_planned(used: int, budget: int, planned: int) -> None:
    use = MemoryUse("mac-1", used, budget, planned)
    assert use.is_short or not use.is_out
    assert not (use.is_short and used <= planned)
    assert not (use.is_short and used <= 0.85 * budget)
    assert use.is_out or budget == 0 or used <= max(0.95 * budget, max(0.85 * budget, planned) + 0.05 * budget)
    assert MemoryUse.from_message(pb.MemoryUse.FromString(use.to_message().SerializeToString())) == use


def test_a_node_without_a_limit_is_never_short() -> None:
    assert not MemoryUse("mac-1", GB, 0).is_short


def test_any_node_that_is_short_refuses_until_it_is_not_or_is_silent() -> None:
    guard = MemoryGuard()
    guard.note(MemoryUse("mac-1", GB, 12 * GB), 0.0)
    guard.require_room(0.0)
    guard.note(MemoryUse("mac-2", 11 * GB, 12 * GB), 1.0)
    with pytest.raises(
        PressureError, match=r"node mac-2 uses 11\.0 GB of the 12\.0 GB that it offers: it takes no new"
    ):
        guard.require_room(1.0)
    guard.note(MemoryUse("mac-2", 9 * GB, 12 * GB), 2.0)
    guard.require_room(2.0)
    guard.note(MemoryUse("mac-2", 11 * GB, 12 * GB), 3.0)
    guard.require_room(3.0 + memory_guard.OLD_S)


def test_answers_give_way_one_at_a_time() -> None:
    guard = MemoryGuard()
    guard.note(MemoryUse("mac-2", 11 * GB, 12 * GB), 0.0)
    assert guard.gives_way(0.0, 5) is None
    guard.note(MemoryUse("mac-2", 12 * GB, 12 * GB), 0.0)
    error = guard.gives_way(0.0, 5)
    assert "node mac-2 uses 12.0 GB of the 12.0 GB" in str(error)
    assert "given up after 5 tokens" in str(error)
    assert guard.gives_way(0.1, 5) is None
    assert guard.gives_way(memory_guard.LOOK_S, 5) is not None


def test_an_expert_peer_tells_the_coordinator_while_it_is_short_and_once_after() -> None:
    heard: list[MemoryUse] = []

    async def scenario() -> None:
        server = grpc.aio.server()
        worker_pb2_grpc.add_StageServicer_to_server(MemoryService(heard.append), server)
        port = Insecure("a" * 16).add_port(server, "127.0.0.1:0")
        await server.start()
        coordinator = pb.WorkerAddress(node_id="a" * 16, name="mac-1", target=f"127.0.0.1:{port}")
        connections = Connections(Insecure("b" * 16), [coordinator], 1, lambda _: None)
        peer = ExpertsPart(cast(ExpertShard, None), "mac-2", coordinator.node_id, connections)
        for used_gb in (1, 11, 12, 2, 1):
            await peer.note_memory(MemoryUse("mac-2", used_gb * GB, 12 * GB))
        await server.stop(0)
        await peer.note_memory(MemoryUse("mac-2", 12 * GB, 12 * GB))  # nobody hears it: the next time counts
        await connections.close()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    assert [use.used_bytes // GB for use in heard] == [11, 12, 2]


def test_the_memory_of_a_process_is_what_it_touches() -> None:
    script = f"import sys; a = bytearray(b'x') * (200 * {MB}); print('here', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        own = footprint_bytes([os.getpid()])
        assert 200 * MB < footprint_bytes([os.getpid(), child.pid]) - own < 400 * MB
        child.stdin.close()
    assert footprint_bytes([child.pid]) == 0


def test_a_control_group_limits_what_a_node_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(footprint, "_CGROUP_LIMITS", (str(limit),))
    assert limited_bytes(8 * GB) == 8 * GB
    limit.write_text("max\n")
    assert limited_bytes(8 * GB) == 8 * GB
    limit.write_text(f"{4 * GB}\n")
    assert (limited_bytes(8 * GB), limited_bytes(2 * GB)) == (4 * GB, 2 * GB)


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    loaded = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    yield loaded
    loaded.close()


async def rest_of(call: Any) -> list[Any]:
    """Return the tokens that were not read."""
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events += [event] if event.HasField("token") else []
    return events


def test_memory_that_runs_out_stops_the_newest_answer_until_there_is_room_and_then_ends_it(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is real: this process takes it, and gives it back."""
    monkeypatch.setattr(memory_guard, "LOOK_S", 0.0)
    monkeypatch.setattr(memory_guard, "SOFT_LIMIT", 0.5)  # a process as small as this one needs more between the limits
    long, short = (to_request_message(Request.exactly((5, 6, 7), n_tokens), b"", b"") for n_tokens in (2000, 20))
    before = footprint_bytes([os.getpid()])
    budget = int((before + 300 * MB) / memory_guard.SOFT_LIMIT)  # short after 300 MB more

    async def scenario() -> None:
        async with served(model) as (stub, answering):

            def look() -> MemoryUse:
                use = MemoryUse("mac-1", footprint_bytes([os.getpid()]), budget)
                answering.note_memory(use)
                return use

            older = stub.Answer(long)  # unread, it is held before its end
            await older.read()
            newest = stub.Answer(long)
            await newest.read()
            assert not look().is_short
            ballast = [bytearray(b"x") * (400 * MB)]
            assert look().is_short
            assert answering.active == 2
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Answer(short).read()
            error = error_of(refused.value, "mac-1")
            assert isinstance(error, PressureError)
            assert error.retryable
            while not look().is_out:
                ballast.append(bytearray(b"x") * (200 * MB))
            while not (event := await newest.read()).HasField("waiting"):
                pass
            assert "node mac-1 uses" in event.waiting.cause
            assert answering.active == 2
            ballast.clear()
            assert not look().is_short
            while not (await newest.read()).HasField("token"):
                pass
            while not look().is_out:
                ballast.append(bytearray(b"x") * (400 * MB))
            assert answering.active == 1
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await rest_of(newest)
            assert "the newest answer was given up after" in str(error_of(ended.value, "mac-1"))
            ballast.clear()
            assert not look().is_short
            assert len(await rest_of(stub.Answer(short))) == 20
            assert answering.active == 1
            assert all([await older.read() for _ in range(20)])
            older.cancel()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
