"""Ring: frames from the coordinator through the stages of all nodes and back to it, each node sending to the next.

    coordinator + stage 0 ──▶ stage 1 ──▶ ... ──▶ stage n-1 ──▶ coordinator

Other messages (forks, releases, failures, timelines) take the same way, so that they stay in order with frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import mlx.core as mx
from google.protobuf.message import DecodeError

from cluster.timeline import Span, SpanKind
from cluster.wire import worker_pb2 as pb
from cluster.worker.arrays import is_frame, to_frame
from cluster.worker.computing import Computing
from cluster.worker.expectation import Expectation
from cluster.worker.messages import Kind, Message, failure, raised_by
from cluster.worker.pipeline import Receive
from cluster.worker.recording import Recording
from mlx_moe.errors import FrameError, MoeClusterError, NumericsError
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, Outgoing, Refused, Release, Returned

log = logging.getLogger(__name__)

Send = Callable[[Message], Awaitable[None]]
"""Sends a message to the next node; waits while that node is far behind."""

MAX_CANCELLED = 1024
"""Cancelled sequences whose frames a stage remembers to drop: more than there are answers."""

SILENCE_S = 60.0
SILENCE_FACTOR = 4.0
"""Answers end if nothing returns for SILENCE_S plus this factor times the estimate for the slowest frame in flight.

The estimate is the time of the first stage, times the work of all stages in multiples of its own."""


class RingStage:
    """A stage after the first: computes received frames and forwards the results. `previous` is the sender's name."""

    def __init__(self, computing: Computing, epoch: int, previous: str) -> None:
        self._computing = computing
        self._stage = computing.stage
        self.recording = Recording(self._stage.node)
        self._epoch = epoch
        self._previous = previous
        self._cancelled: dict[str, int] = {}

    def cancel(self, cancel: Cancel) -> None:
        """Drop frames of a sequence up to a serial number: the one that is computed, and those behind it."""
        sequence_id = cancel.sequence_id
        self._cancelled[sequence_id] = max(cancel.serial, self._cancelled.pop(sequence_id, 0))
        if len(self._cancelled) > MAX_CANCELLED:  # frames that were dropped before are dropped on return in any case
            del self._cancelled[next(iter(self._cancelled))]
        self._computing.cancel(cancel)

    async def pass_on(self, message: Message) -> Message | None:
        """Return the message to forward, or None."""
        if message.epoch != self._epoch:
            log.debug("event=dropped epoch=%d own=%d", message.epoch, self._epoch)
            return None
        if not is_frame(message):
            return self._obey(message)
        if self._is_cancelled(message):
            return None
        began_s = time.monotonic()
        try:
            frame = to_frame(message, self._stage.node)
        except FrameError as error:
            return failure(message, error)
        result = await self._computing.run(frame)
        try:
            match result:
                case Frame():
                    return self._computing.message(result, self._epoch)
                case Refused():
                    return failure(message, self._cause(frame, result.error))
                case None:
                    return None
        finally:
            self.recording.add(_span(message, message.arrived_s, began_s))

    def _cause(self, frame: Frame, error: MoeClusterError) -> MoeClusterError:
        """Return why a frame failed here: NaN that it came with is not this stage's."""
        if not isinstance(error, NumericsError) or mx.isfinite(frame.hidden_states).all().item():
            return error
        return NumericsError(f"node {self._previous} sent hidden states that are not finite to node {self._stage.node}")

    def _is_cancelled(self, message: Message) -> bool:
        is_cancelled = message.serial <= self._cancelled.get(message.sequence_id, 0)
        if self._cancelled:  # frames arrive in the order of their serials: cancels up to this one are done
            self._cancelled = {name: upto for name, upto in self._cancelled.items() if upto > message.serial}
        return is_cancelled

    def _obey(self, message: Message) -> Message | None:
        if message.kind is Kind.RELEASE:
            self._stage.release(message.sequence_id)
        elif message.kind is Kind.FORK:
            try:
                self._stage.fork(bytes(message.payload).hex(), message.sequence_id, message.position)
            except FrameError:  # the next frame raises RewindError
                self._stage.release(message.sequence_id)
        elif message.kind is Kind.TIMELINES:
            timelines = timelines_of(message)
            timelines.stages.append(self.recording.take())
            return replace(message, payload=timelines.SerializeToString())
        elif message.kind not in (Kind.FAILURE, Kind.MEMORY):
            log.warning("event=dropped kind=%s", message.kind.name)
            return None
        return message


def timelines_of(message: Message) -> pb.Timelines:
    """Return the timelines of a TIMELINES message; none if it has something else."""
    try:
        return pb.Timelines.FromString(bytes(message.payload))
    except DecodeError as error:
        log.warning("event=bad_timelines error=%s", error)
        return pb.Timelines()


def _span(message: Message, arrived_s: float, began_s: float, kind: SpanKind | None = None) -> Span:
    """Return the span of a frame that ends now."""
    kind = kind or SpanKind(message.kind.name.lower())
    ended_s = time.monotonic()
    return Span(kind, message.sequence_id, message.serial, message.position, message.rows, arrived_s, began_s, ended_s)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A frame that the other stages compute; `first_s`: the seconds that it took in the first stage; when it left."""

    sequence_id: str
    first_s: float
    left_s: float
    expected: Expectation


class RingPipeline:
    """The coordinator's end of the ring: its own stage, which is the first, then the others.

    `cancel_elsewhere` tells the other stages to drop frames that are on their way; `recording` is what the coordinator
    did. `work` is what all stages compute for a frame, in multiples of what the first one does. `last` is the name of
    the node with the last stage.
    """

    def __init__(
        self,
        computing: Computing,
        recording: Recording,
        receive: Receive,
        n_stages: int,
        epoch: int,
        send: Send,
        cancel_elsewhere: Callable[[Cancel], None],
        work: float,
        last: str,
    ) -> None:
        self.computing = computing
        self.recording = recording
        self.n_stages = n_stages
        self.frames_in_flight = n_stages + 1  # one in each stage, and one on its way
        self._receive = receive
        self._epoch = epoch
        self._send = send
        self._cancel_elsewhere = cancel_elsewhere
        self._work = work
        self._last = last
        self._under_way: dict[int, _UnderWay] = {}  # by serial
        self._heard_s = 0.0

    async def send(self, item: Outgoing) -> None:
        """See Pipeline."""
        stage = self.computing.stage
        match item:
            case Frame():
                await self._send_frame(item)
            case Fork():
                try:
                    stage.fork(item.source_id, item.sequence_id, item.positions)
                except FrameError:  # the next frame raises RewindError
                    stage.release(item.sequence_id)
                source = bytes.fromhex(item.source_id)
                message = Message(Kind.FORK, item.sequence_id, self._epoch, position=item.positions, payload=source)
                await self._send(message)
            case Release():
                stage.release(item.sequence_id)
                await self._send(Message(Kind.RELEASE, item.sequence_id, self._epoch))
            case Cancel():
                self.cancel(item)

    async def advance(self, sequence_id: str) -> None:
        """See Pipeline. What this node computes of a frame is computed when it is sent."""

    def waits(self, sequence_id: str) -> bool:  # noqa: ARG002
        """See Pipeline."""
        return False

    def cancel(self, cancel: Cancel) -> None:
        """See Pipeline."""
        self._forget(cancel.sequence_id, cancel.serial)
        self.computing.cancel(cancel)
        self._cancel_elsewhere(cancel)

    async def ask_timelines(self, asked_id: str) -> None:
        """Request all other stages' timelines; they return in one message with this id."""
        await self._send(Message(Kind.TIMELINES, asked_id, self._epoch))

    def come_back(self, message: Message) -> None:
        """Process a message from the last stage."""
        if message.epoch != self._epoch:
            return
        under_way = self._under_way.get(message.serial)
        if under_way is None or under_way.sequence_id != message.sequence_id:
            return  # void, cancelled or unknown; or a fork or release that went around the ring
        if is_frame(message):
            self.recording.add(_span(message, message.arrived_s, time.monotonic(), SpanKind.RETURN))
            self.recording.away_s += message.arrived_s - under_way.left_s
        elif message.kind is not Kind.FAILURE:
            return
        self._heard_s = time.monotonic()
        self._forget(message.sequence_id, message.serial)
        try:
            if message.kind is Kind.FAILURE:
                raise raised_by(message)
            returned: Returned = to_frame(message, self.computing.stage.node)
            under_way.expected.require(message, f"node {self._last}")
        except MoeClusterError as error:
            returned = Refused(message.sequence_id, message.serial, error)
        self._receive(returned)

    def overdue(self, now_s: float) -> set[str]:
        """See Pipeline."""
        slowest_s = max((frame.first_s for frame in self._under_way.values()), default=0.0) * self._work
        if now_s - self._heard_s <= SILENCE_S + SILENCE_FACTOR * slowest_s:
            return set()
        return {frame.sequence_id for frame in self._under_way.values()}

    async def _send_frame(self, frame: Frame) -> None:
        began_s = time.monotonic()
        result = await self.computing.run(frame)
        if isinstance(result, Refused):
            self._receive(result)
        if not isinstance(result, Frame):
            return
        message = self.computing.message(result, self._epoch)
        ended_s = time.monotonic()
        self.recording.add(_span(message, began_s, began_s))
        if not self._under_way:
            self._heard_s = ended_s
        expected = Expectation.after(message)
        self._under_way[frame.serial] = _UnderWay(frame.sequence_id, ended_s - began_s, ended_s, expected)
        await self._send(message)

    def _forget(self, sequence_id: str, serial: int) -> None:
        """Expect no frames of a sequence up to a serial number any more: those before are back, void or cancelled."""
        for number in [n for n, f in self._under_way.items() if f.sequence_id == sequence_id and n <= serial]:
            del self._under_way[number]
