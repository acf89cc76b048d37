"""Remote experts: a peer answers what it can, refuses what cannot be, and never computes something else."""

from __future__ import annotations

import itertools
import queue
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import mlx.core as mx
import numpy as np
import pytest

from cluster.errors import NodeLostError
from cluster.worker.messages import EXPERTS_METHOD, Dtype, Kind, Message, raised_by
from cluster.worker.remote_experts import ExpertLink, RemoteExperts, answer_pairs, pairs_message
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.errors import FrameError, NumericsError
from mlx_moe.layers.expert_dispatch import Pairs
from mlx_moe.layers.steps import finish
from mlx_moe.pipeline.holding import load_experts
from mlx_moe.pipeline.shard import ExpertShard
from mlx_moe.pipeline.shard_spec import ShardSpec
from tests.patience import PATIENCE_S, until

LAYER = 2
OWNED = (1, 3, 5)


@pytest.fixture(scope="module")
def shard() -> ExpertShard:
    with Checkpoint.open(library.locate("demo")) as checkpoint:
        config = families.config_of(checkpoint)
        spec = ShardSpec(range(LAYER, LAYER + 1), {LAYER: OWNED})
        return load_experts(checkpoint, config, spec).shard


def pairs(positions: list[int], experts: list[int]) -> Pairs:
    return Pairs(np.array(positions, np.int32), np.array(experts, np.int32), by_expert=False)


def rows(shard: ExpertShard, n: int = 4) -> mx.array:
    return mx.random.normal((n, shard.config.hidden_size), dtype=shard.dtype, key=mx.random.key(n))


def received(message: Message) -> Message:
    return Message.decode(message.encode())


def question(shard: ExpertShard) -> Message:
    return pairs_message(LAYER, rows(shard), pairs([0, 2, 2], [1, 3, 5]), serial=7)


def test_only_the_rows_that_are_needed_travel_and_come_back_in_order(shard: ExpertShard) -> None:
    x, asked = rows(shard), pairs([3, 1, 3], [5, 1, 1])
    sent = received(pairs_message(LAYER, x, asked, serial=7))
    assert (sent.rows, sent.outputs) == (2, 3)
    answer = received(finish(answer_pairs(shard, sent, "mac-2")))
    assert (answer.kind, answer.serial, answer.rows) == (Kind.ROWS, 7, 3)
    got = np.frombuffer(answer.payload, np.float32).reshape(3, -1)
    assert np.array_equal(got, np.array(shard.experts[LAYER].pairs(x, asked)))


def with_pairs(message: Message, positions: list[int], experts: list[int]) -> Message:
    """Return a question whose pairs are replaced by others, which may be anything."""
    hidden = bytes(message.payload)[8 * message.outputs :]
    numbers = struct.pack(f">{2 * len(positions)}I", *positions, *experts)
    return replace(message, outputs=len(positions), payload=numbers + hidden)


@pytest.mark.parametrize(
    ("positions", "experts"),
    [([2], [1]), ([2**31], [1]), ([2**32 - 1], [1]), ([0], [2]), ([0], [999]), ([0], [2**32 - 1]), ([], [])],
)
def test_pairs_that_cannot_be_are_refused_with_node_and_layer(
    shard: ExpertShard, positions: list[int], experts: list[int]
) -> None:
    answer = finish(answer_pairs(shard, received(with_pairs(question(shard), positions, experts)), "mac-2"))
    assert answer.kind is Kind.FAILURE
    assert answer.serial == 7
    assert "node mac-2, experts of layer 2: " in str(raised_by(answer))


@pytest.mark.parametrize(
    "changes",
    [
        {"position": 3},
        {"outputs": 2**32 - 1},
        {"rows": 3},
        {"rows": 2**32 - 1},
        {"width": 1},
        {"dtype": Dtype.FLOAT16},
        {"kind": Kind.ROWS},
        {"payload": b""},
        {"payload": b"1234567"},
    ],
    ids=str,
)
def test_a_question_that_does_not_fit_is_refused(shard: ExpertShard, changes: dict[str, Any]) -> None:
    answer = finish(answer_pairs(shard, received(replace(question(shard), **changes)), "mac-2"))
    assert (answer.kind, answer.serial) == (Kind.FAILURE, 7)
    assert isinstance(raised_by(answer), FrameError)


class Peer:
    """A peer over a real stream, which answers by `answer`."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.questions: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.port = 0
        self.start()
        self.link = ExpertLink(grpc.insecure_channel(f"127.0.0.1:{self.port}"), "mac-2", "b")

    def start(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(2), handlers=[self._handler()])
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def close(self) -> None:
        self.link.close()
        self.server.stop(None).wait()

    def _handler(self) -> grpc.GenericRpcHandler:
        def serve(messages: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
            for data in messages:
                asked = Message.decode(data)
                self.questions.put(asked)
                yield replace(self.answers.get(timeout=PATIENCE_S), serial=asked.serial).encode()

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
                assert details.method == EXPERTS_METHOD
                return grpc.stream_stream_rpc_method_handler(serve)

        return Handler()


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    pair = Peer(), Peer()
    yield pair
    for peer in pair:
        peer.close()


def answer_of(value: float) -> Message:
    return Message(Kind.ROWS, "0" * 32, rows=1, width=2, payload=np.full(2, value, np.float32).tobytes())


def test_after_a_refusal_of_one_peer_the_answer_of_another_is_not_taken_for_a_later_one(
    peers: tuple[Peer, Peer],
) -> None:
    first, second = peers
    experts = RemoteExperts({LAYER: {0: (), 1: (0,), 2: (1,)}})
    experts.connect([first.link, second.link])
    routed = experts.bind(LAYER, None)
    x, indices = mx.zeros((1, 2)), mx.array([[0, 1]])
    first.answers.put(Message(Kind.FAILURE, "0" * 32, payload=b"bad_frame refused"))
    second.answers.put(answer_of(1.0))
    with pytest.raises(FrameError, match="refused"):
        finish(routed.steps(x, indices, None))
    first.answers.put(answer_of(2.0))
    second.answers.put(answer_of(3.0))
    assert finish(routed.steps(x, indices, None)).tolist() == [[[2.0, 2.0], [3.0, 3.0]]]


def test_frames_that_pause_in_a_layer_get_their_own_rows(peers: tuple[Peer, Peer]) -> None:
    first, _ = peers
    experts = RemoteExperts({LAYER: {0: (), 1: (0,)}})
    experts.connect([first.link])
    routed = experts.bind(LAYER, None)
    for value in (1.0, 2.0):
        first.answers.put(replace(answer_of(value), rows=2, payload=np.full((2, 2), value, np.float32).tobytes()))
    paused = routed.steps(mx.zeros((2, 2)), mx.array([[0], [0]]), None)
    for wait in itertools.islice(paused, 2):  # for the router, then for the peer
        wait()
    other = finish(routed.steps(mx.zeros((2, 2)), mx.array([[0], [0]]), None))
    assert other.tolist() == [[[2.0, 2.0]], [[2.0, 2.0]]]
    assert finish(paused).tolist() == [[[1.0, 1.0]], [[1.0, 1.0]]]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rows": 2, "payload": bytes(16)}, FrameError),
        ({"width": 1, "payload": bytes(4)}, FrameError),
        ({"dtype": Dtype.BFLOAT16, "payload": bytes(4)}, FrameError),
        ({"payload": bytes(7)}, FrameError),
        ({"kind": Kind.PAIRS, "rows": 0, "payload": b""}, FrameError),
        ({"payload": np.array([1, np.nan], np.float32).tobytes()}, NumericsError),
        ({"payload": np.array([1, np.inf], np.float32).tobytes()}, NumericsError),
    ],
    ids=["rows", "width", "dtype", "bytes", "kind", "nan", "inf"],
)
def test_rows_that_are_something_else_end_the_request_alone(
    peers: tuple[Peer, Peer], changes: dict[str, Any], error: type[Exception]
) -> None:
    link = peers[0].link
    peers[0].answers.put(replace(answer_of(1.0), **changes))
    with pytest.raises(error):
        link.answer(link.ask(LAYER, mx.zeros((1, 2)), pairs([0], [0])))
    peers[0].answers.put(answer_of(2.0))
    assert link.answer(link.ask(LAYER, mx.zeros((1, 2)), pairs([0], [0]))).tolist() == [[2.0, 2.0]]


def test_a_peer_that_returns_nan_is_named(peers: tuple[Peer, Peer]) -> None:
    peers[0].answers.put(answer_of(np.nan))
    with pytest.raises(NumericsError, match="node mac-2, experts of layer 2, returned"):
        peers[0].link.answer(peers[0].link.ask(LAYER, mx.zeros((1, 2)), pairs([0], [0])))


def test_a_stream_that_broke_is_opened_again_and_what_was_not_answered_is_asked_again(peers: tuple[Peer, Peer]) -> None:
    first, _ = peers
    experts = RemoteExperts({LAYER: {0: (), 1: (0,)}})
    experts.connect([first.link])
    routed = experts.bind(LAYER, None)
    first.answers.put(answer_of(1.0))
    assert finish(routed.steps(mx.zeros((1, 2)), mx.array([[0]]), None)).tolist() == [[[1.0, 1.0]]]
    paused = routed.steps(mx.zeros((2, 2)), mx.array([[0], [0]]), None)
    next(paused)()
    wait_for_peer = next(paused)
    first.questions.get(timeout=PATIENCE_S)
    first.questions.get(timeout=PATIENCE_S)
    first.server.stop(None).wait()
    first.answers.put(answer_of(1.0))  # nobody reads it any more
    wait_for_peer()
    until(first.answers.empty)
    first.start()
    first.answers.put(replace(answer_of(2.0), rows=2, payload=np.full((2, 2), 2.0, np.float32).tobytes()))
    assert finish(paused).tolist() == [[[2.0, 2.0]], [[2.0, 2.0]]]


def test_a_peer_that_is_gone_is_named(peers: tuple[Peer, Peer]) -> None:
    first, _ = peers
    question = first.link.ask(LAYER, mx.zeros((1, 2)), pairs([0], [0]))
    first.questions.get(timeout=PATIENCE_S)
    first.answers.put(answer_of(1.0))
    first.link.answer(question)
    first.server.stop(None).wait()
    question = first.link.ask(LAYER, mx.zeros((1, 2)), pairs([0], [0]))
    with pytest.raises(NodeLostError, match="node mac-2"):
        first.link.answer(question)
