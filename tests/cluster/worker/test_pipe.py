"""Pipe: messages between daemon and worker, however their bytes come."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.wire import worker_pb2 as pb
from cluster.worker import pipe


async def all_of(pieces: list[bytes]) -> list[pb.WorkerCommand]:
    stream = asyncio.StreamReader()
    for piece in pieces:
        stream.feed_data(piece)
    stream.feed_eof()
    read = []
    while (message := await pipe.read(stream, pb.WorkerCommand())) is not None:
        read.append(message)
    return read


@given(st.lists(st.text(max_size=20)), st.integers(1, 7))
def test_messages_come_in_order_however_they_are_cut(reasons: list[str], length: int) -> None:
    messages = [pb.WorkerCommand(stop=pb.StopWorker(reason=reason)) for reason in reasons]
    data = b"".join(map(pipe.framed, messages))
    pieces = [data[i : i + length] for i in range(0, len(data), length)]
    assert asyncio.run(all_of(pieces)) == messages


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_pipe_that_ends_in_a_message_ends_before_it(kept: int) -> None:
    data = pipe.framed(pb.WorkerCommand(stop=pb.StopWorker(reason="why not")))
    assert asyncio.run(all_of([data, data[:kept]])) == [pb.WorkerCommand(stop=pb.StopWorker(reason="why not"))]


def test_a_length_that_no_message_has_is_refused() -> None:
    with pytest.raises(ClusterError, match="4,294,967,295 bytes"):
        asyncio.run(all_of([b"\xff\xff\xff\xff"]))
