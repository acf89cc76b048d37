"""ModelClient: calls the coordinator of the model that a cluster serves. Asynchronous."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from cluster.request_message import from_sampling_message, from_token_message, to_request_message
from cluster.rpc_errors import translated
from cluster.timeline import Timeline
from cluster.trust import Credentials
from cluster.wire import coordinator_pb2 as pb
from cluster.wire import coordinator_pb2_grpc
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.errors import MoeClusterError
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.dialects import Dialect, named
from mlx_moe.text.thought import ThoughtMarkers

CALL_S = 30.0
"""Timeout of calls that only read."""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A served model. `sampling` has its defaults; `notes` tell people which values of its files are ignored.

    `kv_positions` is the KV room of all requests together. `text_failure` says why it has no tokenizer, "" if it has
    one. `dialect`: how its answers mark reasoning and tool calls. `thoughts_apart`: its template takes earlier thoughts
    in `reasoning_content` instead of `content`.
    """

    model: str
    sampling: SamplingParams
    context_tokens: int
    kv_positions: int
    kv_bytes_per_token: int
    vocab_size: int
    has_chat_template: bool
    text_failure: str
    notes: tuple[str, ...]
    dialect: Dialect
    thoughts_apart: bool


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


AnswerEvent: TypeAlias = Begun | Prefilled | Waiting | Written


class ModelClient:
    """A served model. Use the client in the event loop in which it was made, and close it; the model stays loaded."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        stub: coordinator_pb2_grpc.CoordinatorStub,
        description: ModelDescription,
        callee: str,
        node_id: str,
    ) -> None:
        self.description = description
        self._channel = channel
        self._stub = stub
        self._callee = callee
        self._node_id = node_id

    @classmethod
    async def connect(
        cls, credentials: Credentials, node_id: str, address: str, callee: str = "the coordinator"
    ) -> ModelClient:
        """Return the model that a node coordinates; error messages call that node `callee`. Raises NodeLostError."""
        channel = credentials.aio_channel(address, node_id)
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        try:
            with translated(callee, node_id):
                message = await stub.Describe(pb.DescribeRequest(), timeout=CALL_S)
            return cls(channel, stub, _description(message), callee, node_id)
        except BaseException:
            await channel.close()
            raise

    async def format_chat(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[int]:
        """Return the prompt of a chat, up to where the answer begins."""
        request = pb.FormatChatRequest(messages=json.dumps(messages), variables=json.dumps(variables))
        with self._called():
            return list((await self._stub.FormatChat(request, timeout=CALL_S)).token_ids)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        request = pb.EncodeRequest(text=text, add_special_tokens=add_special_tokens)
        with self._called():
            return list((await self._stub.Encode(request, timeout=CALL_S)).token_ids)

    async def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids."""
        request = pb.DecodeRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        with self._called():
            return str((await self._stub.Decode(request, timeout=CALL_S)).text)

    async def timeline(self) -> Timeline:
        """Return what each stage did since the last call of any client, as far back as stages remember."""
        with self._called():
            return Timeline.read([stage async for stage in self._stub.Timeline(pb.TimelineRequest(), timeout=CALL_S)])

    def answer(self, request: Request, conversation_id: bytes = b"") -> AnswerStream:
        """Start an answer. Requests of one conversation share their prefix; its id has 16 bytes, none for one request.

        Raises:
            InvalidRequestError: a token id is too large. Other errors are raised with the first event.
        """
        request_id = uuid.uuid4()
        message = to_request_message(request, conversation_id, request_id.bytes)
        return AnswerStream(self._stub.Answer(message), self._callee, self._node_id, request_id.hex)

    def hold_conversation(self, conversation_id: bytes) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """Keep a conversation until this call is cancelled, or this process ends; then its KV caches are freed."""
        call: grpc.aio.UnaryStreamCall[Any, Any] = self._stub.HoldConversation(
            pb.ConversationId(conversation_id=conversation_id)
        )
        return call

    async def close_conversation(self, conversation_id: bytes) -> None:
        """Free a conversation's KV caches; ignored if the coordinator has ended."""
        with contextlib.suppress(MoeClusterError), self._called():
            await self._stub.CloseConversation(pb.ConversationId(conversation_id=conversation_id), timeout=CALL_S)

    async def close(self) -> None:
        """Close the channel, which ends its answers."""
        await self._channel.close()

    def _called(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._callee, self._node_id)


class AnswerStream:
    """An answer while it is written: an asynchronous iterator of events, the first of which is Begun.

    `request_id`, 32 hexadecimal digits, identifies it in logs and errors.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, Any], callee: str, node_id: str, request_id: str) -> None:
        self.request_id = request_id
        self._call = call
        self._callee = callee
        self._node_id = node_id

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
            with translated(self._callee, self._node_id):
                message = await self._call.read()
        except MoeClusterError as error:
            raise error.about(request_id=self.request_id) from error
        return _event(message) if isinstance(message, pb.AnswerEvent) else None

    def cancel(self) -> None:
        """End the answer on every node at once; a pending `read` raises CancelledError."""
        self._call.cancel()


def _event(message: pb.AnswerEvent) -> AnswerEvent:
    match message.WhichOneof("event"):
        case "begun":
            return Begun(message.begun.seed)
        case "prefill":
            return Prefilled(message.prefill.done, message.prefill.total)
        case "waiting":
            return Waiting(message.waiting.cause, message.waiting.done, message.waiting.total)
        case _:
            return Written(*from_token_message(message.token))


def _description(message: pb.ModelDescription) -> ModelDescription:
    return ModelDescription(
        model=message.model,
        sampling=from_sampling_message(message.sampling),
        context_tokens=message.context_tokens,
        kv_positions=message.kv_positions,
        kv_bytes_per_token=message.kv_bytes_per_token,
        vocab_size=message.vocab_size,
        has_chat_template=message.has_chat_template,
        text_failure=message.text_failure,
        notes=tuple(message.notes),
        dialect=named(message.dialect, ThoughtMarkers(message.thought_open, message.thought_close)),
        thoughts_apart=message.thoughts_apart,
    )
