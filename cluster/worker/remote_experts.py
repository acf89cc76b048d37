"""Remote experts: a stage's leader requests rows of experts from the peers that own them, over one stream each.

The leader waits for rows inside a layer, so its side of the stream is synchronous, without asyncio.
Shapes: L positions, D hidden_size, K experts chosen for each position, n pairs of one owner.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import grpc
import mlx.core as mx
import numpy as np

from cluster.errors import NodeLostError
from cluster.rpc_errors import details_of
from cluster.worker.arrays import array_of, bytes_of, dtype_of
from cluster.worker.expectation import Expectation
from cluster.worker.messages import EXPERTS_METHOD, Kind, LinkError, Message, failure, raised_by
from mlx_moe.errors import FrameError
from mlx_moe.layers.expert_dispatch import Dispatch, Pairs
from mlx_moe.layers.experts import NO_PEERS, Experts, RoutedExperts
from mlx_moe.layers.steps import Steps
from mlx_moe.pipeline.shard import ExpertShard

log = logging.getLogger(__name__)

LEADER = 0
"""The number of the leader among the owners; its peers have the following numbers."""

REOPEN_S = 5.0
"""How long a stream that broke may take to be opened again, after which its peer is lost: a stop of 3 s is a stall."""

PAUSE_S = 0.05

_NO_REQUEST = "0" * 32
_PAIR = np.dtype(">u4")
_BY_EXPERT = 1


@dataclass(slots=True, eq=False)
class Question:
    """A request to a peer about experts of a layer; `message` is its answer once that was read."""

    layer: int
    expected: Expectation
    data: bytes
    message: Message | None = None


class ExpertLink:
    """The leader's stream to one peer, which answers in order.

    Frames that are paused in a layer may have open requests at the same time; each gets its own answer. A stream that
    broke is opened again by `resume`; what was not answered is requested again, which changes nothing at the peer.
    """

    def __init__(self, channel: grpc.Channel, node: str, node_id: str) -> None:
        self._node = node
        self._node_id = node_id
        self._channel = channel
        self._serial = 0
        self._open: dict[int, Question] = {}
        self.nbytes = 0  # of all requests and answers
        self._end: Exception | None = None
        self._is_closed = False
        self._begin()

    def open(self, timeout_s: float) -> None:
        """Wait until the peer has accepted the stream. Raises grpc.RpcError, grpc.FutureTimeoutError."""
        grpc.channel_ready_future(self._channel).result(timeout_s)
        self._answers.initial_metadata()

    def ask(self, layer: int, x: mx.array, pairs: Pairs) -> Question:
        """Request rows: send pairs of a layer with the rows of x `[L, D]` that they need."""
        self._serial += 1
        expected = Expectation(len(pairs.experts), x.shape[1], dtype_of(x))
        data = pairs_message(layer, x, pairs, self._serial).encode()
        question = self._open[self._serial] = Question(layer, expected, data)
        self._sent.put(data)
        self.nbytes += len(data)
        return question

    def wait(self, question: Question) -> None:
        """Read until the answer to a request, or until the stream breaks; computes nothing."""
        while question.message is None:  # answers to earlier requests come first, also to cancelled ones
            try:
                data = next(self._answers)
                message = Message.decode(data)
            except (grpc.RpcError, StopIteration, LinkError) as exc:
                self._end = exc
                self._answers.cancel()  # after invalid bytes it goes on otherwise
                return
            self.nbytes += len(data)
            if (asked := self._open.pop(message.serial, None)) is not None:
                asked.message = message

    def resume(self, question: Question) -> None:
        """Open the stream again and read until the answer to a request, or for REOPEN_S; computes nothing."""
        cause = details_of(self._end) if isinstance(self._end, grpc.RpcError) else str(self._end)
        log.warning("event=link_broke node=%s cause=%r", self._node, cause)
        ends_at = time.monotonic() + REOPEN_S
        while not self._is_closed and time.monotonic() < ends_at:
            try:
                self._sent.put(None)
                self._answers.cancel()
                self._begin()
                self.open(ends_at - time.monotonic())
            except (grpc.RpcError, grpc.FutureTimeoutError, ValueError) as exc:  # the channel may be closed meanwhile
                self._end = exc
            else:
                log.warning("event=link_resumed node=%s questions=%d", self._node, len(self._open))
                self.wait(question)
                if question.message is not None:
                    return
            time.sleep(PAUSE_S)

    def answer(self, question: Question) -> mx.array:
        """Wait for the requested rows `[n, D]`.

        Raises:
            FrameError: the peer refused the request, or answered something else.
            NumericsError: it answered NaN or Inf.
            NodeLostError: the peer was lost.
        """
        self.wait(question)
        message = question.message
        if message is None:
            raise NodeLostError(
                f"node {self._node}, which owns experts of this stage, does not answer", node_id=self._node_id
            ) from self._end
        if message.kind is Kind.FAILURE:
            raise raised_by(message)
        rows = array_of(message.payload, message.rows, message.width, message.dtype)
        question.expected.require(message, f"node {self._node}, experts of layer {question.layer},")
        return rows

    def close(self) -> None:
        """End the stream."""
        self._is_closed = True
        self._sent.put(None)
        self._channel.close()

    def _begin(self) -> None:
        """Begin a stream with the requests that are not answered."""
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for question in self._open.values():
            self._sent.put(question.data)
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(EXPERTS_METHOD)
        self._answers = call(iter(self._sent.get, None), wait_for_ready=True)


class RemoteExperts:
    """ExpertPeers over the network. `owners` has the experts by layer and owner; the leader has the number LEADER.

    Layers are bound when they are loaded; the links open later.
    """

    def __init__(self, owners: Mapping[int, Mapping[int, Sequence[int]]]) -> None:
        self._dispatches = {
            layer: Dispatch({expert: owner for owner, experts in of_layer.items() for expert in experts})
            for layer, of_layer in owners.items()
        }
        self._links: dict[int, ExpertLink] = {}

    def connect(self, links: Sequence[ExpertLink]) -> None:
        """Use links to the peers, in the order of their numbers."""
        self._links.update(enumerate(links, start=LEADER + 1))

    @property
    def nbytes(self) -> int:
        """The bytes of all requests and answers."""
        return sum(link.nbytes for link in self._links.values())

    def bind(self, layer: int, own: Experts | None) -> RoutedExperts:
        """See ExpertPeers."""
        if layer not in self._dispatches:
            return NO_PEERS.bind(layer, own)
        return _DividedExperts(layer, self._dispatches[layer], own, self._links)


class _DividedExperts:
    """RoutedExperts of one layer: some in this process, the others on peers."""

    def __init__(self, layer: int, dispatch: Dispatch, own: Experts | None, links: Mapping[int, ExpertLink]) -> None:
        self._layer = layer
        self._dispatch = dispatch
        self._own = own
        self._links = links

    def steps(self, x: mx.array, indices: mx.array, meanwhile: mx.array | None) -> Steps[mx.array]:
        """See RoutedExperts. For a single position it waits here: another thread would cost more."""
        yields = x.shape[0] > 1
        mx.async_eval(x, indices)  # first, because the peers wait for these
        if meanwhile is not None:
            mx.async_eval(meanwhile)
        if yields:
            yield partial(mx.eval, x, indices)
        split = self._dispatch.split(np.array(indices))
        remote = [owner for owner in split.pairs if owner != LEADER]
        questions = {owner: self._links[owner].ask(self._layer, x, split.pairs[owner]) for owner in remote}
        rows: dict[int, mx.array] = {}
        if LEADER in split.pairs:
            assert self._own is not None  # the dispatch says that it owns some
            rows[LEADER] = self._own.pairs(x, split.pairs[LEADER])
            mx.async_eval(rows[LEADER])
        for owner, question in questions.items():
            link = self._links[owner]
            if yields:
                yield partial(link.wait, question)
            else:
                link.wait(question)
            if question.message is None:
                yield partial(link.resume, question)  # in another thread: control is heard meanwhile
            rows[owner] = link.answer(question)
        return split.join(rows)


def pairs_message(layer: int, x: mx.array, pairs: Pairs, serial: int) -> Message:
    """Return a request message: the pairs, then the rows of x `[L, D]` that occur in them."""
    positions, places = np.unique(pairs.positions, return_inverse=True)
    rows = np.frombuffer(bytes_of(x), np.uint8).reshape(x.shape[0], -1)[positions]
    numbers = np.stack([places, pairs.experts]).astype(_PAIR)
    return Message(
        Kind.PAIRS,
        _NO_REQUEST,
        serial=serial,
        position=layer,
        rows=len(positions),
        width=x.shape[1],
        outputs=len(pairs.experts),
        dtype=dtype_of(x),
        flags=_BY_EXPERT if pairs.by_expert else 0,
        payload=numbers.tobytes() + rows.tobytes(),
    )


def answer_pairs(shard: ExpertShard, message: Message, node: str) -> Steps[Message]:
    """Return a message with the requested rows, or with the failure."""
    try:
        x, pairs = _question(shard, message)
        y = shard.experts[message.position].pairs(x, pairs)
    except FrameError as error:
        return failure(message, FrameError(f"node {node}, experts of layer {message.position}: {error}"))
    rows, width = y.shape
    if rows > 1:
        mx.async_eval(y)
        yield partial(mx.eval, y)
    return Message(
        Kind.ROWS,
        _NO_REQUEST,
        serial=message.serial,
        rows=rows,
        width=width,
        dtype=dtype_of(y),
        payload=bytes_of(y),
    )


def _question(shard: ExpertShard, message: Message) -> tuple[mx.array, Pairs]:
    """Return the rows `[L, D]` and pairs of a request. Raises FrameError if they do not match the shard."""
    n_pairs, pairs_bytes = message.outputs, 2 * message.outputs * _PAIR.itemsize
    if message.kind is not Kind.PAIRS or message.position not in shard.experts:
        raise FrameError("it owns none")
    if not n_pairs or len(message.payload) < pairs_bytes:
        raise FrameError(f"at least one pair must fit {len(message.payload)} bytes, got {n_pairs}")
    positions, experts = np.frombuffer(message.payload[:pairs_bytes], _PAIR).reshape(2, n_pairs)
    if positions.max() >= message.rows or experts.max() >= shard.config.moe.n_routed_experts:
        raise FrameError(
            f"positions must be below {message.rows} and experts below {shard.config.moe.n_routed_experts}, got "
            f"{positions.max()} and {experts.max()}"
        )
    x = array_of(message.payload[pairs_bytes:], message.rows, message.width, message.dtype)
    if message.width != shard.config.hidden_size or x.dtype != shard.dtype:
        raise FrameError(f"rows must be {shard.config.hidden_size} x {shard.dtype}, got {message.width} x {x.dtype}")
    return x, Pairs(positions.astype(np.int32), experts.astype(np.int32), bool(message.flags & _BY_EXPERT))
