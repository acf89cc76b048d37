"""AnswerStream: an answer while it is written, also by a coordinator that takes the place of the one that began it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import grpc

from cluster.errors import MovedError, NodeLostError, UnloadedError
from cluster.printable import MAX_ERROR, printable
from cluster.request_message import from_frames_message, from_token_message, to_request_message
from cluster.rpc_errors import translated
from cluster.wire import coordinator_pb2 as pb
from cluster.wire import coordinator_pb2_grpc
from mlx_moe.decoding.replay import PromptFrames, Replay
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.errors import MoeClusterError

ATTEMPTS = 5
"""How often an answer is begun again before it has written a further token."""

Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.AnswerRequest, pb.AnswerEvent]"


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer's first event: the seed it is sampled with."""

    seed: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Progress of the prompt, in positions."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A part of the model was lost or is moved, says `cause`; the answer continues later.

    First weights are loaded (`total` is 0), then `done` of `total` positions are computed again.
    """

    cause: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A token, and the answer's statistics at it; the last one has a `finish_reason`."""

    token: Token
    stats: GenerationStats
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Tokens of the prompt, if its log-probabilities were asked for. A position may come again."""

    tokens: tuple[Token, ...]


AnswerEvent: TypeAlias = Begun | Prefilled | PromptScored | Waiting | Written


class Coordinator(Protocol):
    """Who coordinates the model; it changes when another node takes over."""

    @property
    def stub(self) -> coordinator_pb2_grpc.CoordinatorStub:
        """The stub of the present one."""

    @property
    def callee(self) -> str:
        """What errors call it."""

    @property
    def node_id(self) -> str:
        """Its node."""

    async def follow(self, lost: coordinator_pb2_grpc.CoordinatorStub, error: MoeClusterError) -> None:
        """Turn to the one that takes the place of a lost one. Raises `error` if none does."""


class AnswerStream:
    """An asynchronous iterator of events, the first of which is Begun.

    If the coordinator is lost, it waits for another one, and the answer continues after the tokens that were read.
    `request_id`, 32 hexadecimal digits, identifies it in logs and errors.
    """

    def __init__(self, coordinator: Coordinator, request: Request, conversation_id: bytes) -> None:
        self._id = uuid.uuid4()
        self._coordinator = coordinator
        self._request = request
        self._conversation_id = conversation_id
        self._seed: int | None = None
        self._frames: PromptFrames | None = None
        self._answer_ids: list[int] = []
        self._lost: MoeClusterError | None = None
        self._attempts = 0  # since the last token
        self._clock = _Clock()
        self._begin()

    @property
    def request_id(self) -> str:
        """Its id."""
        return self._id.hex

    def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        """Return itself."""
        return self

    async def __anext__(self) -> AnswerEvent:
        """Return the next event. Raises StopAsyncIteration at the end, MoeClusterError if the answer failed."""
        event = await self.read()
        if event is None:
            raise StopAsyncIteration
        return event

    async def read(self) -> AnswerEvent | None:
        """Return the next event, None at the end. Cancelling this ends the answer. Raises MoeClusterError."""
        try:
            return await self._read()
        except MoeClusterError as error:
            raise error.about(request_id=self.request_id) from error

    def cancel(self) -> None:
        """End the answer on every node at once; a pending `read` raises CancelledError."""
        self._call.cancel()

    def _begin(self) -> None:
        self._stub = self._coordinator.stub
        request, replay = self._request, None
        if self._seed is not None:
            request = replace(request, sampling=replace(request.sampling, seed=self._seed))
            replay = Replay(tuple(self._answer_ids), self._frames)
        self._call: Call = self._stub.Answer(to_request_message(request, self._conversation_id, self._id.bytes, replay))

    async def _read(self) -> AnswerEvent | None:
        if self._lost is not None:
            await self._coordinator.follow(self._stub, self._lost)
            self._lost = None
            self._begin()
        while True:
            try:
                with translated(self._coordinator.callee, self._coordinator.node_id):
                    message = await self._call.read()
            except UnloadedError:
                raise
            except (NodeLostError, MovedError) as error:
                self._attempts += 1
                if self._attempts > ATTEMPTS:
                    raise
                self._lost = error
                self._clock.stop(str(error))
                return Waiting(str(error))
            if not isinstance(message, pb.AnswerEvent):
                return None
            if (event := self._event(message)) is not None:
                return event

    def _event(self, message: pb.AnswerEvent) -> AnswerEvent | None:
        match message.WhichOneof("event"):
            case "begun":
                is_first, self._seed = self._seed is None, message.begun.seed
                return Begun(message.begun.seed) if is_first else None
            case "prefill":
                return Prefilled(message.prefill.done, message.prefill.total)
            case "waiting":
                return Waiting(printable(message.waiting.cause, MAX_ERROR), message.waiting.done, message.waiting.total)
            case "prompt":
                return PromptScored(tuple(from_token_message(token)[0] for token in message.prompt.tokens))
            case "frames":
                self._frames = from_frames_message(message.frames)
                return None
            case _:
                token, stats, reason = from_token_message(message.token)
                self._answer_ids.append(token.id)
                self._attempts = 0
                return Written(token, self._clock.read(stats), reason)


class _Clock:
    """Makes one answer's statistics of those that several coordinators count."""

    def __init__(self) -> None:
        self._last = GenerationStats()
        self._before: GenerationStats | None = None  # of the coordinator that was lost
        self._read_at = self._stopped_at = 0.0
        self._gap_s = 0.0
        self._cause = ""

    def stop(self, cause: str) -> None:
        """Begin to wait, because of `cause`."""
        now = time.monotonic()
        if self._before is not self._last:
            self._before, self._stopped_at = self._last, now
        self._cause = cause

    def read(self, stats: GenerationStats) -> GenerationStats:
        """Return the statistics at a token from those of the coordinator that wrote it."""
        now, before = time.monotonic(), self._before
        if before is not None:
            if self._stopped_at:
                waited_s, self._stopped_at = now - self._stopped_at, 0.0
                self._before = before = replace(
                    before, waited_s=before.waited_s + waited_s, waited_for=stats.waited_for or self._cause
                )
                self._gap_s = waited_s - stats.total_s
            is_prompt_known = before.generated_tokens > 0
            total_s = before.total_s + self._gap_s + stats.total_s
            stats = replace(
                stats,
                cached_tokens=before.cached_tokens if is_prompt_known else stats.cached_tokens,
                ttft_s=before.ttft_s if is_prompt_known else total_s,
                prefill_s=before.prefill_s if is_prompt_known else stats.prefill_s,
                decode_s=total_s - before.ttft_s if is_prompt_known else 0.0,
                total_s=total_s,
                drafted=before.drafted + stats.drafted,
                accepted=before.accepted + stats.accepted,
                waited_s=before.waited_s + stats.waited_s,
                waited_for=stats.waited_for or before.waited_for,
            )
        self._last = stats
        return stats
