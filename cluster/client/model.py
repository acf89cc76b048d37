"""ModelClient: calls the coordinator of the model that a cluster serves. Asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc

from cluster.client.answer_stream import AnswerStream
from cluster.errors import NodeLostError, UnloadedError
from cluster.printable import MAX_ERROR, printable
from cluster.request_message import from_sampling_message
from cluster.rpc_errors import translated
from cluster.timeline import Timeline
from cluster.trust import Credentials
from cluster.wire import coordinator_pb2 as pb
from cluster.wire import coordinator_pb2_grpc
from mlx_moe.decoding.request import Request
from mlx_moe.errors import MoeClusterError
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.dialects import Dialect, named
from mlx_moe.text.thought import ThoughtMarkers

T = TypeVar("T")

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
class Place:
    """Where a model is coordinated: a node, the address of its worker, and what errors call it."""

    node_id: str
    address: str
    callee: str = "the coordinator"


Find: TypeAlias = Callable[[MoeClusterError], Awaitable[Place]]
"""Returns where the model is coordinated now that an error has ended a call. Raises that error if it is nowhere."""


ASKED_AT_ONCE = 16
"""Calls for prompts and texts; further ones wait. A coordinator takes 32 of a kind from all programs of a node."""


class ModelClient:
    """A served model. Use the client in the event loop in which it was made, and close it; the model stays loaded."""

    def __init__(
        self, credentials: Credentials, place: Place, description: ModelDescription, find: Find | None = None
    ) -> None:
        self.description = description
        self._credentials = credentials
        self._find = find
        self._one_move_at_a_time = asyncio.Lock()
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self._turn_to(place)

    @classmethod
    async def connect(cls, credentials: Credentials, place: Place, find: Find | None = None) -> ModelClient:
        """Return the model that is coordinated at a place.

        If its coordinator is lost, calls and answers go on where `find` says that it is coordinated then.

        Raises:
            NodeLostError: nobody answers there.
        """
        return cls(credentials, place, await described(credentials, place, CALL_S), find)

    @property
    def stub(self) -> coordinator_pb2_grpc.CoordinatorStub:
        """The stub of the present coordinator."""
        return self._stub

    @property
    def callee(self) -> str:
        """What errors call the coordinator."""
        return self._place.callee

    @property
    def node_id(self) -> str:
        """The coordinator's node."""
        return self._place.node_id

    async def follow(self, lost: coordinator_pb2_grpc.CoordinatorStub, error: MoeClusterError) -> None:
        """Turn to the coordinator that takes the place of a lost one. Raises `error` if none does."""
        async with self._one_move_at_a_time:
            if self._stub is not lost:  # another call has turned already
                return
            if self._find is None:
                raise error
            place, former = await self._find(error), self._channel
            self._turn_to(place)
            await former.close()

    async def format_chat(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[int]:
        """Return the prompt of a chat, up to where the answer begins."""
        request = pb.FormatChatRequest(messages=json.dumps(messages), variables=json.dumps(variables))
        return list((await self._ask(lambda stub: stub.FormatChat(request, timeout=CALL_S))).token_ids)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        request = pb.EncodeRequest(text=text, add_special_tokens=add_special_tokens)
        return list((await self._ask(lambda stub: stub.Encode(request, timeout=CALL_S))).token_ids)

    async def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids."""
        request = pb.DecodeRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        return str((await self._ask(lambda stub: stub.Decode(request, timeout=CALL_S))).text)

    async def timeline(self) -> Timeline:
        """Return what each stage did since the last call of any client, as far back as stages remember."""
        with self._called():
            return Timeline.read([stage async for stage in self._stub.Timeline(pb.TimelineRequest(), timeout=CALL_S)])

    def answer(self, request: Request, conversation_id: bytes = b"") -> AnswerStream:
        """Start an answer. Requests of one conversation share their prefix; its id has 16 bytes, none for one request.

        Raises:
            InvalidRequestError: a token id is too large. Other errors are raised with the first event.
        """
        return AnswerStream(self, request, conversation_id)

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

    def _turn_to(self, place: Place) -> None:
        self._place = place
        self._channel = self._credentials.aio_channel(place.address, place.node_id)
        self._stub = coordinator_pb2_grpc.CoordinatorStub(self._channel)

    async def _ask(self, call: Callable[[coordinator_pb2_grpc.CoordinatorStub], Awaitable[T]]) -> T:
        """Return the result of a call that changes nothing, from the coordinator that there is, or will be."""
        while True:
            stub = self._stub
            try:
                async with self._asking:
                    with self._called():
                        return await call(stub)
            except UnloadedError:
                raise
            except NodeLostError as error:
                await self.follow(stub, error)

    def _called(self) -> contextlib.AbstractContextManager[None]:
        return translated(self.callee, self.node_id)


async def described(credentials: Credentials, place: Place, timeout_s: float) -> ModelDescription:
    """Return the model that is coordinated at a place. Raises NodeLostError if nobody answers there."""
    channel = credentials.aio_channel(place.address, place.node_id)
    try:
        with translated(place.callee, place.node_id):
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            return _description(await stub.Describe(pb.DescribeRequest(), timeout=timeout_s))
    finally:
        await channel.close()


def _description(message: pb.ModelDescription) -> ModelDescription:
    return ModelDescription(
        model=printable(message.model, MAX_ERROR),
        sampling=from_sampling_message(message.sampling),
        context_tokens=message.context_tokens,
        kv_positions=message.kv_positions,
        kv_bytes_per_token=message.kv_bytes_per_token,
        vocab_size=message.vocab_size,
        has_chat_template=message.has_chat_template,
        text_failure=printable(message.text_failure, MAX_ERROR),
        notes=tuple(printable(note, MAX_ERROR) for note in message.notes),
        dialect=named(message.dialect, ThoughtMarkers(message.thought_open, message.thought_close)),
        thoughts_apart=message.thoughts_apart,
    )
