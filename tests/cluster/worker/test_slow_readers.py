"""Slow readers, over real streams: an answer that is not read is held back, then ended, and no other notices."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import mlx_moe
from cluster.errors import UnreadError
from cluster.request_message import to_request_message
from cluster.rpc_errors import error_of
from cluster.wire import coordinator_pb2 as pb
from cluster.worker import answer_queue
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request
from mlx_moe.model import LocalModel
from tests.cluster.worker.served import served
from tests.patience import PATIENCE_S

PROMPT = (5, 6, 7)
LONG, SHORT, UNREAD = 400, 40, 16

SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 10))
"""A reader for which little is sent ahead, whatever the speed of the connection."""


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    loaded = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    yield loaded
    loaded.close()


def question(n_tokens: int) -> pb.AnswerRequest:
    return to_request_message(Request.exactly(PROMPT, n_tokens), b"", b"")


async def tokens_of(call: Any, read: list[int] | None = None) -> list[int]:
    """Read an answer to its end; return its tokens, which `read` gets one by one."""
    read = [] if read is None else read
    while (event := await call.read()) is not grpc.aio.EOF:
        read += [event.token.id] if event.HasField("token") else []
    return read


def test_a_stream_that_is_not_read_is_held_back_then_ended_and_one_beside_it_does_not_notice(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_queue, "UNREAD_S", 0.3)
    monkeypatch.setattr(answer_queue, "MAX_UNREAD", UNREAD)
    wanted = [token.id for token in model.generate(Request.exactly(PROMPT, LONG))]

    async def scenario() -> None:
        async with served(model, client_options=SMALL_WINDOW) as (stub, answering):
            slow, quick = stub.Answer(question(LONG)), stub.Answer(question(SHORT))
            await slow.read()
            assert await tokens_of(quick) == wanted[:SHORT]
            while answering.active:
                await asyncio.sleep(0.01)
            assert await tokens_of(stub.Answer(question(SHORT))) == wanted[:SHORT]
            read: list[int] = []
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await tokens_of(slow, read)
            assert isinstance(error_of(caught.value, "mac-1"), UnreadError)
            assert UNREAD - 1 <= len(read) < LONG
            assert read == wanted[: len(read)]
            assert not answering.active

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
