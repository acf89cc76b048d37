"""Answering: the loop of the coordinator's worker: whose turn it is, what the coordinator does, where that goes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace

from cluster.errors import NodeLostError
from cluster.timeline import Span, SpanKind
from cluster.worker.answer_queue import AnswerQueue, QueuedToken
from cluster.worker.pipeline import Pipeline
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.coordinator import Coordinator, Failed, Written
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.errors import InvalidRequestError, MoeClusterError
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, Outgoing, Release, Returned

LOOK_S = 1.0
"""How often frames that do not come back are looked for."""


@dataclass(slots=True)
class _Answer:
    writer: AnswerWriter
    stream: AnswerQueue


class Answering:
    """Advances all answers that are being written, in turns."""

    def __init__(self, coordinator: Coordinator, pipeline: Pipeline) -> None:
        self._coordinator = coordinator
        self._pipeline = pipeline
        self._answers: dict[str, _Answer] = {}
        self._to_send: deque[Outgoing] = deque()  # outside of a turn
        self._has_work = asyncio.Event()

    @property
    def active(self) -> int:
        """How many answers are being written."""
        return len(self._answers)

    def __contains__(self, sequence_id: str) -> bool:
        """Whether an answer of a sequence is being written, or will be."""
        return sequence_id in self._answers

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(0)  # frames, readers and cancellations come between turns

    async def step(self) -> None:
        """Give one answer its turn: what it sends leaves before the next turn; wait where all wait."""
        while self._to_send:
            await self._pipeline.send(self._to_send.popleft())
        sequence_id = self._coordinator.scheduler.next()
        if sequence_id is None:
            await self._wait()
            return
        began_s = time.monotonic()
        await self._pipeline.advance(sequence_id)
        for output in self._coordinator.step(sequence_id):
            match output:
                case Frame() | Fork() | Release() | Cancel():
                    await self._pipeline.send(output)
                case Written():
                    self._write(output)
                case Failed():
                    self._fail(output)
                case wait:
                    await self._pipeline.computing.waiter.wait(wait)
        if self._pipeline.waits(sequence_id):
            self._coordinator.scheduler.ready(sequence_id)  # the others have their turn before
        self._tell_progress(sequence_id)
        self._pipeline.recording.add(Span(SpanKind.TURN, sequence_id, 0, 0, 0, began_s, began_s, time.monotonic()))

    def begin(self, writer: AnswerWriter, stream: AnswerQueue) -> None:
        """Let an answer take turns, and put into `stream` what comes of it.

        Raises:
            InvalidRequestError: its sequence has one already.
        """
        sequence = writer.sequence
        if sequence.id in self._answers:
            raise InvalidRequestError("the conversation is being answered: wait for that answer, or end it first")
        writer.begin()
        self._answers[sequence.id] = _Answer(writer, stream)
        stream.on_room = lambda: self._go_on(sequence.id)
        self._coordinator.submit(sequence)
        self._has_work.set()

    def receive(self, returned: Returned) -> None:
        """Take what comes out of the last stage."""
        self._coordinator.receive(returned)
        self._has_work.set()

    def end(self, writer: AnswerWriter) -> None:
        """End an answer where it stands. The sequence's next one may be under way already: it goes on."""
        answer = self._answers.get(writer.sequence.id)
        if answer is not None and answer.writer is writer:
            del self._answers[writer.sequence.id]
            self._send(self._coordinator.end(writer.sequence))

    def cut_off(self, sequence: Sequence, error: MoeClusterError | None = None) -> None:
        """End what a sequence is answering, if it is, and let the reader know."""
        if answer := self._answers.get(sequence.id):
            answer.stream.end(error)
            self.end(answer.writer)

    def fail_all(self, error: MoeClusterError) -> None:
        """End every answer: nothing will come back any more."""
        for answer in list(self._answers.values()):
            self.cut_off(answer.writer.sequence, error)

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's KV caches everywhere; its answer ends."""
        self.cut_off(sequence)
        self._send(self._coordinator.release(sequence))

    async def _wait(self) -> None:
        """Wait until an answer can go on; give up those whose frames do not come back: no answer hangs."""
        self._has_work.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._has_work.wait()
        for sequence_id in self._pipeline.overdue(time.monotonic()):
            if answer := self._answers.get(sequence_id):
                error = NodeLostError("a frame of the answer does not come back: a node is stuck; try again")
                self.cut_off(answer.writer.sequence, error)

    def _send(self, items: list[Outgoing]) -> None:
        """Drop frames at once, also while one is computed; send the rest before the next turn."""
        for item in items:
            if isinstance(item, Cancel):
                self._pipeline.cancel(item)
            else:
                self._to_send.append(item)
                self._has_work.set()

    def _go_on(self, sequence_id: str) -> None:
        self._coordinator.scheduler.unhold(sequence_id)
        self._has_work.set()

    def _write(self, written: Written) -> None:
        answer = self._answers[written.sequence.id]
        if not answer.writer.stats.generated_tokens:
            answer.stream.put(answer.writer.prefill_progress)
        token = answer.writer.write(written)
        reason = answer.writer.finish_reason
        answer.stream.put(QueuedToken(token, replace(answer.writer.stats), reason))
        if reason is not None:
            self.cut_off(written.sequence)
        elif answer.stream.is_full:
            self._coordinator.scheduler.hold(written.sequence.id)

    def _fail(self, failed: Failed) -> None:
        answer = self._answers.pop(failed.sequence.id)
        answer.writer.failure = failed.error
        answer.stream.end(failed.error)

    def _tell_progress(self, sequence_id: str) -> None:
        answer = self._answers.get(sequence_id)
        if answer is not None and not answer.writer.stats.generated_tokens:
            answer.stream.put(answer.writer.prefill_progress)
