"""Ring: frames from the coordinator through the stages of all nodes and back to it, each node sending to the next.

    coordinator + stage 0 ──▶ stage 1 ──▶ ... ──▶ stage n-1 ──▶ coordinator

Other messages (forks, releases, failures, timelines) take the same way, so that they stay in order with frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import mlx.core as mx
from google.protobuf.message import DecodeError

from cluster.timeline import Span, SpanKind
from cluster.wire import worker_pb2 as pb
from cluster.worker.arrays import is_frame, is_step, to_frame
from cluster.worker.computing import Computing
from cluster.worker.expectation import Expectation
from cluster.worker.inbox import Inbox
from cluster.worker.messages import NO_SEQUENCE, Kind, Message, failure, raised_by
from cluster.worker.pipeline import Pipeline, Receive
from cluster.worker.recording import Recording
from mlx_moe.errors import FrameError, MoeClusterError, NumericsError
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, Outgoing, Refused, Release, Retain, Returned

log = logging.getLogger(__name__)


class Send(Protocol):
    """Sends the messages of a batch to the next node; waits while that node is far behind."""

    async def __call__(self, *messages: Message) -> None:
        """Send them."""


MAX_CANCELLED = 1024
"""Cancelled sequences whose frames a stage remembers to drop: more than there are answers."""

SILENCE_S = 60.0
SILENCE_FACTOR = 4.0
"""Answers end if nothing returns for SILENCE_S plus this factor times the estimate for the slowest frame in flight.

The estimate is the time of the first stage, times the work of all stages in multiples of its own."""


async def send_all(messages: Sequence[Message], send: Send) -> None:
    """Send messages as one batch."""
    if messages:
        await send(*messages)


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

    async def run(self, inbox: Inbox, send: Send) -> None:
        """Compute what arrives, and send it on, until cancelled. Between the layers of a chunk steps have a turn."""

        async def steps(running: str) -> None:
            if messages := inbox.take_steps(running):
                await send_all(await self.pass_on(messages), send)

        while True:
            messages = await inbox.get()
            await send_all(await self.pass_on(messages, partial(steps, messages[0].sequence_id)), send)

    async def pass_on(
        self, messages: Sequence[Message], between: Callable[[], Awaitable[None]] | None = None
    ) -> list[Message]:
        """Return the messages to forward, for one message or a batch of steps.

        `between` is awaited between the layers of a chunk.
        """
        frames: list[tuple[Message, Frame]] = []
        after: list[Message] = []
        for message in messages:
            if message.epoch != self._epoch:
                log.debug("event=dropped epoch=%d own=%d", message.epoch, self._epoch)
            elif not is_frame(message):
                after += self._obey(message)
            elif not self._is_cancelled(message):
                try:
                    frames.append((message, to_frame(message, self._stage.node)))
                except FrameError as error:
                    after.append(failure(message, error))
        if not frames:
            return after
        began_s = time.monotonic()
        if is_step(messages[0]):
            results = await self._computing.together([frame for _, frame in frames])
        else:
            results = [await self._computing.run(frames[0][1], between)]
        for (message, frame), result in zip(frames, results, strict=True):
            match result:
                case Frame():
                    after.append(self._computing.message(result, self._epoch))
                case Refused():
                    after.append(failure(message, self._cause(frame, result.error)))
        self.recording.add(*(_span(message, message.arrived_s, began_s) for message, _ in frames))
        return after

    def _cause(self, frame: Frame, error: MoeClusterError) -> MoeClusterError:
        """Return why a frame failed here: NaN that it came with is not this stage's."""
        if not isinstance(error, NumericsError) or mx.isfinite(frame.hidden_states).all().item():
            return error
        return NumericsError(f"node {self._previous} sent hidden states that are not finite to node {self._stage.node}")

    def _is_cancelled(self, message: Message) -> bool:
        is_cancelled = message.serial <= self._cancelled.get(message.sequence_id, 0)
        if not is_step(message):  # what was sent before it has run: cancels up to this one are done; steps overtake
            self._cancelled = {name: upto for name, upto in self._cancelled.items() if upto > message.serial}
        return is_cancelled

    def _obey(self, message: Message) -> list[Message]:
        if message.kind is Kind.RELEASE:
            self._stage.release(message.sequence_id)
        elif message.kind is Kind.RETAIN:
            ids = bytes(message.payload).hex()
            self._stage.retain({ids[i : i + len(NO_SEQUENCE)] for i in range(0, len(ids), len(NO_SEQUENCE))})
        elif message.kind is Kind.FORK:
            try:
                self._stage.fork(bytes(message.payload).hex(), message.sequence_id, message.position)
            except FrameError:  # the next frame raises RewindError
                self._stage.release(message.sequence_id)
        elif message.kind is Kind.TIMELINES:
            timelines = timelines_of(message)
            timelines.stages.append(self.recording.take())
            return [replace(message, payload=timelines.SerializeToString())]
        elif message.kind not in (Kind.FAILURE, Kind.MEMORY):
            log.warning("event=dropped kind=%s", message.kind.name)
            return []
        return [message]


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


class RingPipeline(Pipeline):
    """The coordinator's end of the ring: its own stage, which is the first, then the others.

    `cancel_elsewhere` tells the other stages to drop frames that are on their way. `work` is what all stages compute
    for a frame, in multiples of what the first one does. `last` is the name of the node with the last stage.
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
        in_flight = n_stages + 1  # one in each stage, and one on its way
        super().__init__(computing, recording, receive, n_stages=n_stages, frames_in_flight=in_flight)
        self._epoch = epoch
        self._send = send
        self._cancel_elsewhere = cancel_elsewhere
        self._work = work
        self._last = last
        self._under_way: dict[int, _UnderWay] = {}  # by serial
        self._heard_s = 0.0

    async def send(self, item: Outgoing) -> None:
        """See Pipeline."""
        await super().send(item)
        match item:
            case Fork():
                source = bytes.fromhex(item.source_id)
                message = Message(Kind.FORK, item.sequence_id, self._epoch, position=item.positions, payload=source)
                await self._send(message)
            case Release():
                await self._send(Message(Kind.RELEASE, item.sequence_id, self._epoch))
            case Retain():
                ids = b"".join(bytes.fromhex(sequence_id) for sequence_id in item.sequence_ids)
                await self._send(Message(Kind.RETAIN, NO_SEQUENCE, self._epoch, payload=ids))

    def cancel(self, cancel: Cancel) -> None:
        """See Pipeline."""
        self._forget(cancel.sequence_id, cancel.serial)
        super().cancel(cancel)
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

    async def _leave(self, frames: Sequence[Frame], results: Sequence[Returned | None], began_s: float) -> None:
        """See Pipeline. Sends to the second stage."""
        messages = []
        for frame, result in zip(frames, results, strict=True):
            if isinstance(result, Refused):
                self._receive(result)
            if not isinstance(result, Frame):
                continue
            message = self.computing.message(result, self._epoch)
            ended_s = time.monotonic()
            if not self._under_way:
                self._heard_s = ended_s
            expected = Expectation.after(message)
            self._under_way[frame.serial] = _UnderWay(frame.sequence_id, ended_s - began_s, ended_s, expected)
            messages.append(message)
        self.recording.add(*(_span(message, began_s, began_s) for message in messages))
        await send_all(messages, self._send)

    def _forget(self, sequence_id: str, serial: int) -> None:
        """Expect no frames of a sequence up to a serial number any more: those before are back, void or cancelled."""
        for number in [n for n, f in self._under_way.items() if f.sequence_id == sequence_id and n <= serial]:
            del self._under_way[number]
