"""Ring: frames from the coordinator through the stages of all nodes and back to it, each node sending to the next.

    coordinator + stage 0 ──▶ stage 1 ──▶ ... ──▶ stage n-1 ──▶ coordinator

What is not a frame (forks, releases, failures, timelines) goes the same way, so that it stays in order with them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.timeline import Span, SpanKind
from cluster.worker.arrays import is_frame, to_frame, to_message
from cluster.worker.messages import Kind, Message, failure, raised_by
from cluster.worker.recording import Recording
from mlx_moe.errors import FrameError, NumericsError
from mlx_moe.pipeline.frame import Frame
from mlx_moe.pipeline.link import RunningStage

log = logging.getLogger(__name__)

Send = Callable[[Message], None]
"""Puts a message on its way to the next node; waits for nothing."""


class RingStage:
    """A stage after the first: runs what comes, and hands on what becomes of it."""

    def __init__(self, stage: RunningStage, epoch: int) -> None:
        self.stage = stage
        self._recording = Recording(stage.node)
        self._epoch = epoch
        self._cancelled: dict[str, int] = {}

    def cancel(self, request_id: str, serial: int) -> None:
        """Drop frames of a request up to a serial number: they may be on their way behind others."""
        self._cancelled[request_id] = max(serial, self._cancelled.get(request_id, 0))

    def pass_on(self, message: Message) -> Message | None:
        """Return what goes to the next node in place of a message; None for one that is dropped."""
        if message.epoch != self._epoch:
            log.debug("event=dropped epoch=%d own=%d", message.epoch, self._epoch)
            return None
        if not is_frame(message):
            return self._obey(message)
        if self._is_cancelled(message):
            return None
        began_s = time.monotonic()
        try:
            return to_message(self.stage.run(to_frame(message, self.stage.node)), message.serial)
        except (FrameError, NumericsError) as error:
            return failure(message, error)
        finally:
            self._recording.add(_span(message, message.arrived_s, began_s))

    def _is_cancelled(self, message: Message) -> bool:
        is_cancelled = message.serial <= self._cancelled.get(message.request_id, 0)
        if self._cancelled:  # frames come in the order of their serials: what was cancelled up to this one has passed
            self._cancelled = {name: upto for name, upto in self._cancelled.items() if upto > message.serial}
        return is_cancelled

    def _obey(self, message: Message) -> Message:
        if message.kind is Kind.RELEASE:
            self.stage.release(message.request_id)
        elif message.kind is Kind.FORK:
            try:
                self.stage.fork(bytes(message.payload).hex(), message.request_id, message.position)
            except FrameError:  # the next frame finds nothing kept before it, and says so
                self.stage.release(message.request_id)
        elif message.kind is Kind.TIMELINES:
            return replace(message, payload=bytes(message.payload) + self._recording.take())
        return message


def _span(message: Message, arrived_s: float, began_s: float, kind: SpanKind | None = None) -> Span:
    """Return the span of a frame that ends now."""
    kind = kind or SpanKind(message.kind.name.lower())
    ended_s = time.monotonic()
    return Span(kind, message.request_id, message.serial, message.position, message.rows, arrived_s, began_s, ended_s)


@dataclass(slots=True)
class _Sent:
    """A frame that is under way; with what `returned` in its place, once it waits to be received."""

    serial: int
    position: int
    returned: Message | None = None


class RingLink:
    """The coordinator's Link: its own stage, which is the first, then the ring.

    `cancel_elsewhere` tells the other stages to drop frames that are on their way; `recording` is what the coordinator
    did.
    """

    def __init__(
        self, stage: RunningStage, n_stages: int, epoch: int, send: Send, cancel_elsewhere: Callable[[str, int], None]
    ) -> None:
        self.stages: Sequence[RunningStage] = (stage,)
        self.n_stages = n_stages
        self.frames_in_flight = n_stages + 1  # one in each stage, and one on its way
        self.recording = Recording(stage.node)
        self._epoch = epoch
        self._send = send
        self._cancel_elsewhere = cancel_elsewhere
        self._serials = itertools.count(1)  # 0 is that of what is no frame
        self._sent: dict[str, deque[_Sent]] = {}

    def send(self, frame: Frame) -> None:
        """See Link."""
        serial = next(self._serials)
        (stage,) = self.stages
        began_s = time.monotonic()
        message = to_message(replace(stage.run(frame), epoch=self._epoch), serial)
        self.recording.add(_span(message, began_s, began_s))
        self._send(message)
        sent = self._sent.setdefault(frame.request_id, deque())
        while sent and sent[-1].position >= frame.position:
            sent.pop()
        sent.append(_Sent(serial, frame.position))

    def receive(self, request_id: str) -> Frame | None:
        """See Link."""
        sent = self._sent.get(request_id)
        message = sent[0].returned if sent else None
        if sent is None or message is None:
            return None
        sent.popleft()
        if message.kind is Kind.FAILURE:
            raise raised_by(message)
        return to_frame(message, self.stages[0].node)

    def fork(self, source_id: str, request_id: str, positions: int) -> None:
        """See Link."""
        self.stages[0].fork(source_id, request_id, positions)
        payload = bytes.fromhex(source_id)
        self._send(Message(Kind.FORK, request_id, self._epoch, position=positions, payload=payload))

    def ask_timelines(self, asked_id: str) -> None:
        """Let all other stages tell what they did; it comes back as a message of this id."""
        self._send(Message(Kind.TIMELINES, asked_id, self._epoch))

    def cancel(self, request_id: str) -> None:
        """See Link."""
        sent = self._sent.pop(request_id, None)
        if sent and sent[-1].returned is None:
            self._cancel_elsewhere(request_id, sent[-1].serial)

    def release(self, request_id: str) -> None:
        """See Link."""
        self.cancel(request_id)
        self.stages[0].release(request_id)
        self._send(Message(Kind.RELEASE, request_id, self._epoch))

    def come_back(self, message: Message) -> str | None:
        """Take what the last stage sends; return the request that may go on, None if there is none (any more)."""
        if is_frame(message):
            self.recording.add(_span(message, message.arrived_s, time.monotonic(), SpanKind.RETURN))
        under_way = (sent for sent in self._sent.get(message.request_id, ()) if sent.returned is None)
        oldest = next(under_way, None)
        if message.epoch != self._epoch or oldest is None or message.serial != oldest.serial:
            return None  # a fork or release that went round, or a frame that was cancelled, or is void
        oldest.returned = message
        return message.request_id
