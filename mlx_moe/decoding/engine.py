"""Engine: drives a coordinator and the link to its stages, on one thread."""

from __future__ import annotations

from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.coordinator import Coordinator, Failed, Scored, Written
from mlx_moe.decoding.request import Token
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.errors import InvalidRequestError
from mlx_moe.pipeline.frame import Batch, Cancel, Fork, Frame, Release, Retain
from mlx_moe.pipeline.link import Link


class Engine:
    """Writes answers; each one advances only when its reader asks for the next token."""

    def __init__(self, coordinator: Coordinator, link: Link) -> None:
        self.coordinator = coordinator
        self.link = link
        self._writers: dict[str, AnswerWriter] = {}

    def begin(self, writer: AnswerWriter) -> None:
        """Start an answer. Raises InvalidRequestError if its sequence has an unfinished answer."""
        sequence_id = writer.sequence.id
        if sequence_id in self._writers:
            raise InvalidRequestError("the conversation is being answered: wait for that answer, or close it")
        writer.begin()
        self.coordinator.submit(writer.sequence)
        self._writers[sequence_id] = writer

    def step(self, sequence: Sequence) -> Token | None:
        """Advance a sequence's answer: process returned frames, send the next ones, write a token if possible."""
        token = None
        for returned in self.link.receive(sequence.id):
            self.coordinator.receive(returned)
        for output in self.coordinator.step([sequence.id]):
            match output:
                case Frame() | Batch() | Fork() | Release() | Retain() | Cancel():
                    self.link.send(output)
                case Written():
                    writer = self._writers[output.sequence.id]
                    token = writer.write(output)
                    if writer.finish_reason is not None:
                        self.end(writer)
                case Scored():
                    self._writers[output.sequence.id].score(output)
                case Failed():
                    self._writers.pop(output.sequence.id).failure = output.error
                case wait:
                    wait()
        return token

    def end(self, writer: AnswerWriter) -> None:
        """End an answer now, if it has not ended; its KV caches stay."""
        if self._writers.get(writer.sequence.id) is writer:
            del self._writers[writer.sequence.id]
            for item in self.coordinator.end(writer.sequence):
                self.link.send(item)

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's KV caches; an unfinished answer ends as cancelled."""
        if writer := self._writers.pop(sequence.id, None):
            writer.finish_reason = writer.finish_reason or "cancelled"
        for item in self.coordinator.release(sequence):
            self.link.send(item)
