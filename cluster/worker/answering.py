"""Answering: the coordinator's loop: gives answers turns, and sends what the coordinator yields.

It outlives the loss of a stage: it is interrupted, and resumed with another coordinator and pipeline. An answer that
has to give way to older ones is put back: it keeps nothing but its tokens, and goes on when there is room.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace

from cluster.errors import NodeLostError, UnreadError
from cluster.timeline import Span, SpanKind
from cluster.worker.answer_queue import UNREAD_S, AnswerQueue, PromptTokens, QueuedToken, Waiting
from cluster.worker.memory_guard import MemoryGuard, MemoryUse
from cluster.worker.pipeline import Pipeline
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.coordinator import Coordinator, Failed, Scored, Written
from mlx_moe.decoding.replay import PromptFrames
from mlx_moe.decoding.sequence import Phase, Sequence
from mlx_moe.errors import BusyError, EvictedError, InvalidRequestError, MoeClusterError
from mlx_moe.pipeline.frame import Batch, Cancel, Fork, Frame, Outgoing, Release, Retain, Returned

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often overdue frames are looked for."""


@dataclass(slots=True)
class _Answer:
    writer: AnswerWriter
    stream: AnswerQueue
    frames: PromptFrames | None = None
    waits_since: float | None = None  # monotonic seconds of an interruption, until the next token
    waits_for: str = ""
    is_put_back: bool = False
    gave_way: bool = False  # because memory ran out


@dataclass(slots=True)
class AnsweringCounts:
    """Counts since the coordinator began.

    Attributes:
        idle_s: all answers waited for frames, or for their readers.
        recoveries: how often answers went on after an interruption.
        waited_s: what answers waited for it, added up.
        replayed_positions: which their stages had to compute again.
    """

    idle_s: float = 0.0
    recoveries: int = 0
    waited_s: float = 0.0
    replayed_positions: int = 0


class Answering:
    """Advances all unfinished answers in turns."""

    def __init__(self, coordinator: Coordinator, pipeline: Pipeline) -> None:
        self._coordinator = coordinator
        self._pipeline = pipeline
        self._answers: dict[str, _Answer] = {}
        self._to_send: deque[Outgoing] = deque()  # before the next turn
        self._has_work = asyncio.Event()
        self._memory = MemoryGuard()
        self.counts = AnsweringCounts()

    @property
    def active(self) -> int:
        """Number of unfinished answers."""
        return len(self._answers)

    @property
    def sequence_ids(self) -> frozenset[str]:
        """The sequences with unfinished answers, without those that were put back."""
        return frozenset(name for name, answer in self._answers.items() if not answer.is_put_back)

    def __contains__(self, sequence_id: str) -> bool:
        """Whether a sequence has an unfinished answer."""
        return sequence_id in self._answers

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(0)  # frames, readers and cancels are handled between turns

    async def step(self) -> None:
        """Give an answer a turn, or several that decode, and send their output; if all answers wait, wait."""
        while self._to_send:
            await self._pipeline.send(self._to_send.popleft())
        sequence_ids = self._coordinator.scheduler.next()
        if not sequence_ids:
            await self._wait()
            return
        began_s = time.monotonic()
        for sequence_id in sequence_ids:
            await self._pipeline.advance(sequence_id)
        able = [sequence_id for sequence_id in sequence_ids if not self._pipeline.waits(sequence_id)]
        for output in self._pipeline.computing.watch.each("a turn", len(able), self._coordinator.step(able)):
            match output:
                case Frame() | Batch() | Fork() | Release() | Retain() | Cancel():
                    await self._pipeline.send(output)
                case Written():
                    self._write(output)
                case Scored():
                    self._score(output)
                case Failed():
                    self._fail(output)
                case wait:
                    await self._pipeline.computing.waiter.wait(wait)
        for sequence_id in sequence_ids:
            if self._pipeline.waits(sequence_id):
                self._coordinator.scheduler.ready(sequence_id)  # after the other answers' turns
            self._tell_progress(sequence_id)
        ended_s = time.monotonic()
        self._pipeline.recording.add(Span(SpanKind.TURN, sequence_ids[0], 0, 0, len(able), began_s, began_s, ended_s))

    def begin(self, writer: AnswerWriter, stream: AnswerQueue) -> None:
        """Start an answer; its tokens and progress are put into `stream`.

        Raises:
            InvalidRequestError: its sequence has an unfinished answer.
            PressureError: a node has too little memory left.
            BusyError: answers that were put back wait for room.
        """
        self._memory.require_room(time.monotonic())
        if waiting := sum(answer.is_put_back for answer in self._answers.values()):
            raise BusyError(f"{waiting} answers wait for room in the KV cache: try again when another one has ended")
        sequence = writer.sequence
        if sequence.id in self._answers:
            raise InvalidRequestError("the conversation is being answered: wait for that answer, or close it")
        writer.begin()
        self._answers[sequence.id] = _Answer(writer, stream)
        stream.on_room = lambda: self._go_on(sequence.id)
        stream.on_left = lambda: self._leave(writer)
        self._coordinator.submit(sequence)
        self._has_work.set()

    def note_memory(self, use: MemoryUse) -> None:
        """Note what a node uses; where memory runs out, the newest answer is put back, the second time it ends."""
        now = time.monotonic()
        self._memory.note(use, now)
        newest = next((answer for answer in reversed(self._answers.values()) if not answer.is_put_back), None)
        sequence = None if newest is None else newest.writer.sequence
        if newest is None or sequence is None:
            self._retry()
        elif error := self._memory.gives_way(now, len(sequence.answer_ids)):
            log.warning("event=gave_way sequence_id=%s error=%s", sequence.id, error)
            if newest.gave_way:
                self.cut_off(sequence, error)
                self.release(sequence)
            else:
                newest.gave_way = True
                self._send(self._coordinator.end(sequence))
                self._put_back(newest, str(error).partition(":")[0])
        elif not self._memory.is_short(now):
            self._retry()

    def receive(self, returned: Returned) -> None:
        """Process what the last stage returns."""
        self._coordinator.receive(returned)
        self._has_work.set()

    def end(self, writer: AnswerWriter) -> None:
        """End an answer now, if it has not ended. A newer answer of the same sequence is not affected."""
        answer = self._answers.get(writer.sequence.id)
        if answer is not None and answer.writer is writer:
            del self._answers[writer.sequence.id]
            self._send(self._coordinator.end(writer.sequence))
            self._retry()

    def cut_off(self, sequence: Sequence, error: MoeClusterError | None = None) -> None:
        """End a sequence's answer, if it has one, and notify the reader."""
        if answer := self._answers.get(sequence.id):
            answer.stream.end(error)
            self.end(answer.writer)

    def fail_all(self, error: MoeClusterError) -> None:
        """End all answers with an error."""
        for answer in list(self._answers.values()):
            self.cut_off(answer.writer.sequence, error)

    def interrupt(self, cause: MoeClusterError) -> None:
        """Record that stages were lost, and why; called while `run` does not run. Answers wait for `resume`."""
        for answer in self._answers.values():
            self._tell_waiting(answer, str(cause))

    def resume(self, coordinator: Coordinator, pipeline: Pipeline) -> None:
        """Continue all answers on other stages, which keep no positions: these are computed again as they were."""
        self.counts.recoveries += bool(self._answers)
        for answer in self._answers.values():
            self.counts.replayed_positions += len(answer.writer.sequence.token_ids)
        for sequence in self._coordinator.sequences.values():
            sequence.restart()
        self._coordinator, self._pipeline = coordinator, pipeline
        self._to_send.clear()
        for answer in self._answers.values():
            self._submit(answer)

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's KV caches on all stages and end its answer."""
        self.cut_off(sequence)
        self._send(self._coordinator.release(sequence))

    def _submit(self, answer: _Answer) -> None:
        """Let an answer go on, whose positions are computed again."""
        answer.is_put_back = False
        self._coordinator.submit(answer.writer.sequence)
        if answer.stream.is_full:
            self._coordinator.scheduler.hold(answer.writer.sequence.id)
        self._has_work.set()

    def _put_back(self, answer: _Answer, cause: str) -> None:
        """Free the caches of an answer that has been ended, and plan to compute them again in the same frames."""
        sequence = answer.writer.sequence
        self._send(self._coordinator.release(sequence))
        sequence.put_back(answer.frames)
        answer.is_put_back = True
        self._tell_waiting(answer, cause)

    def _may_be_put_back(self, answer: _Answer, error: MoeClusterError) -> bool:
        """Whether a failure is only that others have the KV cache; one that runs wakes those that wait when it ends."""
        has_begun = isinstance(error, BusyError) and answer.waits_since is not None
        others = any(not other.is_put_back for other in self._answers.values() if other is not answer)
        return others and (has_begun or isinstance(error, EvictedError))

    def _retry(self) -> None:
        """Let those that were put back try to go on, the oldest first."""
        if not self._memory.is_short(time.monotonic()):
            for answer in [answer for answer in self._answers.values() if answer.is_put_back]:
                self._submit(answer)

    async def _wait(self) -> None:
        """Wait for work, at most LOOK_S; end answers whose frames are overdue."""
        self._has_work.clear()
        began_s, is_answering = time.monotonic(), bool(self._answers)
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._has_work.wait()
        if is_answering:
            self.counts.idle_s += time.monotonic() - began_s
        for sequence_id in self._pipeline.overdue(time.monotonic()):
            if answer := self._answers.get(sequence_id):
                error = NodeLostError("a frame of the answer does not come back: a node is stuck; try again")
                self.cut_off(answer.writer.sequence, error)

    def _send(self, items: list[Outgoing]) -> None:
        """Cancel frames at once, also while one is computed; send the rest before the next turn."""
        for item in items:
            if isinstance(item, Cancel):
                self._pipeline.cancel(item)
            else:
                self._to_send.append(item)
                self._has_work.set()

    def _go_on(self, sequence_id: str) -> None:
        self._coordinator.scheduler.unhold(sequence_id)
        self._has_work.set()

    def _leave(self, writer: AnswerWriter) -> None:
        """End an answer that nobody reads. What was written can still be read; others may take its KV caches."""
        tokens = writer.stats.generated_tokens
        log.warning("event=unread sequence_id=%s tokens=%d", writer.sequence.id, tokens)
        self.cut_off(
            writer.sequence,
            UnreadError(
                f"the answer was ended after {tokens} tokens: nothing of it was read for {UNREAD_S:g} s. Read faster, "
                f"or ask for fewer tokens"
            ),
        )

    def _tell_frames(self, answer: _Answer) -> None:
        """Say how the prompt is computed, so that another coordinator can do the same if this one is lost."""
        if answer.frames is None and answer.writer.sequence.phase is Phase.PREFILL:
            answer.frames = answer.writer.sequence.prompt_frames
            answer.stream.put(answer.frames)

    def _write(self, written: Written) -> None:
        answer = self._answers[written.sequence.id]
        if not answer.writer.stats.generated_tokens:
            answer.stream.put(answer.writer.prefill_progress)
        if answer.waits_since is not None:
            waited_s = time.monotonic() - answer.waits_since
            answer.writer.stats.waited_s += waited_s
            self.counts.waited_s += waited_s
            answer.writer.stats.waited_for = answer.waits_for
            answer.waits_since = None
        token = answer.writer.write(written)
        reason = answer.writer.finish_reason
        answer.stream.put(QueuedToken(token, replace(answer.writer.stats), reason))
        if reason is not None:
            self.cut_off(written.sequence)
        elif answer.stream.is_full:
            self._coordinator.scheduler.hold(written.sequence.id)

    def _score(self, scored: Scored) -> None:
        answer = self._answers[scored.sequence.id]
        answer.stream.put(PromptTokens(answer.writer.score(scored)))
        if answer.stream.is_full:
            self._coordinator.scheduler.hold(scored.sequence.id)

    def _fail(self, failed: Failed) -> None:
        answer = self._answers[failed.sequence.id]
        if self._may_be_put_back(answer, failed.error):
            log.info("event=put_back sequence_id=%s reason=%s", failed.sequence.id, failed.error)
            self._put_back(answer, "older answers have the KV cache")
            return
        del self._answers[failed.sequence.id]
        answer.writer.failure = failed.error
        answer.stream.end(failed.error)
        self._retry()

    def _tell_waiting(self, answer: _Answer, cause: str) -> None:
        answer.waits_since, answer.waits_for = answer.waits_since or time.monotonic(), cause
        answer.stream.put(Waiting(cause))

    def _tell_progress(self, sequence_id: str) -> None:
        answer = self._answers.get(sequence_id)
        if answer is not None:
            self._tell_frames(answer)
        if answer is not None and not answer.writer.stats.generated_tokens:
            answer.stream.put(answer.writer.prefill_progress)
        elif answer is not None and answer.waits_since is not None:
            answer.stream.put(Waiting(answer.waits_for, *answer.writer.sequence.replayed))
