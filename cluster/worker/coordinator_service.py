"""CoordinatorService: the gRPC calls of clients. Parses messages; `Request` and `Model.writer` check the rest."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Any

import grpc

from cluster.request_message import (
    from_replay,
    from_request_message,
    to_frames_message,
    to_sampling_message,
    to_token_message,
)
from cluster.rpc_errors import reported
from cluster.wire import coordinator_pb2 as pb
from cluster.wire import coordinator_pb2_grpc, worker_pb2
from cluster.worker.answer_queue import AnswerQueue, Item, PromptTokens, QueuedToken, Waiting
from cluster.worker.answering import Answering
from cluster.worker.kept_prefixes import KeptPrefixes
from mlx_moe.decoding.constraint import Constraints
from mlx_moe.decoding.replay import PromptFrames
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.errors import InvalidRequestError, MoeClusterError
from mlx_moe.model import Model

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

MAX_CONVERSATIONS = 256
"""Number of conversations kept; beyond it an idle one is dropped, of the node with the most, the least recently used.
"""

_Conversation = tuple[str, bytes]
"""The node that began a conversation, and the id that it chose: no other node can name it."""

_NO_VARIABLES = {"self", "messages", "add_generation_prompt", "keep_null"}
"""Template variables that clients may not set."""


class CoordinatorService(coordinator_pb2_grpc.CoordinatorServicer):
    """Serves one model. Texts are read by one thread at a time, all else is done on the event loop's thread.

    `caller_of` returns the id of the node that makes a call.
    """

    def __init__(
        self,
        model: Model,
        answering: Answering,
        timelines: Callable[[], Awaitable[worker_pb2.Timelines]],
        caller_of: Callable[[Context], str],
    ) -> None:
        self.answering = answering
        self._model = model
        self._timelines = timelines
        self._caller_of = caller_of
        self._conversations: dict[_Conversation, Sequence] = {}
        self._alias_key = secrets.token_bytes(16)
        self._kept = KeptPrefixes()
        self._closed = asyncio.Event()
        self._one_text_at_a_time = asyncio.Lock()  # so that those that wait take no threads

    @property
    def constraints(self) -> Constraints:
        """The compiled grammars, which hold for any placement of the model."""
        return self._model.constraints

    def resume(self, model: Model, timelines: Callable[[], Awaitable[worker_pb2.Timelines]]) -> None:
        """Serve the same model on another placement, after `answering` was resumed there."""
        self._model, self._timelines = model, timelines

    async def Describe(self, _request: pb.DescribeRequest, _context: Context) -> pb.ModelDescription:  # noqa: N802
        """Describe the model."""
        model = self._model
        thoughts_apart = await asyncio.to_thread(lambda: model.tokenizer.takes_thoughts_apart)
        return pb.ModelDescription(
            model=model.name,
            sampling=to_sampling_message(model.sampling),
            context_tokens=model.context_tokens,
            kv_bytes_per_token=model.kv_bytes_per_position,
            has_chat_template=model.tokenizer.chat_template is not None,
            kv_positions=model.kv_positions,
            vocab_size=model.config.vocab_size,
            text_failure="" if model.tokenizer.failure is None else str(model.tokenizer.failure),
            notes=model.notes,
            dialect=model.tokenizer.dialect.name,
            thought_open=model.tokenizer.dialect.markers.open,
            thought_close=model.tokenizer.dialect.markers.close,
            thoughts_apart=thoughts_apart,
        )

    async def FormatChat(self, request: pb.FormatChatRequest, context: Context) -> pb.TokenIds:  # noqa: N802
        """Return the prompt of a chat."""
        async with reported(context):
            self._model.require_text(len(request.messages.encode()) + len(request.variables.encode()))
            messages, variables = _json(request.messages, list), _json(request.variables, dict)
            if taken := variables.keys() & _NO_VARIABLES:
                raise InvalidRequestError(f"a variable of a chat template cannot be called {min(taken)!r}")
            async with self._one_text_at_a_time:
                ids = await asyncio.to_thread(
                    self._model.tokenizer.format_chat, messages, add_generation_prompt=True, **variables
                )
        return pb.TokenIds(token_ids=ids)

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.TokenIds:  # noqa: N802
        """Return a text's token ids."""
        async with reported(context), self._one_text_at_a_time:
            ids = await asyncio.to_thread(self._model.encode, request.text, request.add_special_tokens)
        return pb.TokenIds(token_ids=ids)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.Text:  # noqa: N802
        """Return the text of token ids."""
        async with reported(context):
            if len(request.token_ids) > self._model.context_tokens:
                raise InvalidRequestError(
                    f"{len(request.token_ids):,} ids to decode; the limit is the model's context of "
                    f"{self._model.context_tokens:,}"
                )
            tokenizer, ids = self._model.tokenizer, list(request.token_ids)
            if request.skip_special_tokens:
                text = await asyncio.to_thread(tokenizer.answer_text, ids)
            else:
                text = await asyncio.to_thread(tokenizer.decode, ids, skip_special_tokens=False)
        return pb.Text(text=text)

    async def Answer(self, request: pb.AnswerRequest, context: Context) -> AsyncIterator[pb.AnswerEvent]:  # noqa: N802
        """Stream an answer; it ends with the call, whatever the reason."""
        async with reported(context):
            most = request.max_tokens if request.HasField("max_tokens") else None
            self._model.require_room(len(request.input_ids), most)  # before millions of ids are looked at
            stream, request_id, asked = AnswerQueue(), _request_id(request), from_request_message(request)
            if asked.grammar is not None:  # compiling takes up to a second; `writer` finds it compiled
                await asyncio.to_thread(self._model.constraints.new, asked.grammar, asked.input_ids)
            conversation, replay = (self._caller_of(context), request.conversation_id), from_replay(request)
            if replay is not None:
                self._free(conversation)  # what is kept of it here may have been computed in other frames
            sequence = self._conversation(conversation)
            writer = self._model.writer(asked, sequence, replay)
            self.answering.begin(writer, stream)
            ids = {"request_id": request_id, "sequence_id": sequence.id}
            log.info("event=answer_begun %s prompt_tokens=%d", _pairs(ids), len(request.input_ids))
            began_s, outcome = time.monotonic(), "cancelled"
            try:
                begun = pb.AnswerBegun(seed=writer.seed, request_id=bytes.fromhex(request_id))
                yield pb.AnswerEvent(begun=begun)
                async for item in stream.read():
                    yield _event(item)
                outcome = writer.finish_reason or outcome
            except MoeClusterError as error:
                outcome = error.code
                raise error.about(**ids) from error
            finally:
                self.answering.end(writer)
                if not request.conversation_id:
                    has_ended = writer.finish_reason not in (None, "cancelled")  # nor did it fail
                    for gone in self._kept.keep(sequence) if has_ended else (sequence,):
                        self.answering.release(gone)
                stats = writer.stats
                ended = {"reason": outcome, "cached_tokens": stats.cached_tokens, "tokens": stats.generated_tokens}
                log.info("event=answer_ended %s seconds=%.3f", _pairs(ids | ended), time.monotonic() - began_s)

    async def CloseConversation(self, request: pb.ConversationId, context: Context) -> pb.ConversationClosed:  # noqa: N802
        """Free a conversation's KV caches."""
        self._free((self._caller_of(context), request.conversation_id))
        return pb.ConversationClosed()

    async def HoldConversation(  # noqa: N802
        self, request: pb.ConversationId, context: Context
    ) -> AsyncIterator[pb.ConversationHeld]:
        """Keep a conversation until the call ends, with its client or with this worker."""
        try:
            yield pb.ConversationHeld()
            await self._closed.wait()
        finally:
            self._free((self._caller_of(context), request.conversation_id))

    def close(self, error: MoeClusterError) -> None:
        """End all answers with an error, and the calls that hold conversations."""
        self.answering.fail_all(error)
        self._closed.set()

    async def Timeline(  # noqa: N802
        self, _request: pb.TimelineRequest, _context: Context
    ) -> AsyncIterator[worker_pb2.StageTimeline]:
        """Stream each stage's spans since the last call; sequences have other ids in it than those in use."""
        for stage in (await self._timelines()).stages:
            for span in stage.spans:
                span.sequence_id = blake2b(span.sequence_id, digest_size=16, key=self._alias_key).digest()
            yield stage

    def _free(self, conversation: _Conversation) -> None:
        """Free a conversation's KV caches; its answer ends."""
        if sequence := self._conversations.pop(conversation, None):
            self.answering.release(sequence)

    def _conversation(self, conversation: _Conversation) -> Sequence:
        """Return the sequence of a conversation; a new one if it is unknown or was dropped."""
        _, conversation_id = conversation
        if not conversation_id:
            return Sequence()
        if len(conversation_id) != 16:
            raise InvalidRequestError(f"a conversation id must have 16 bytes, got {len(conversation_id)}")
        sequence = self._conversations.pop(conversation, None) or Sequence()
        self._conversations[conversation] = sequence  # the most recently used one is last
        if len(self._conversations) > MAX_CONVERSATIONS:
            self._forget_one()
        return sequence

    def _forget_one(self) -> None:
        count = Counter(node_id for node_id, _ in self._conversations)
        earlier = [*self._conversations.items()][:-1]  # the last one is about to be answered
        idle = [(conversation, sequence) for conversation, sequence in earlier if sequence.id not in self.answering]
        if idle:
            conversation, sequence = max(idle, key=lambda one: count[one[0][0]])  # the first of equals
            del self._conversations[conversation]
            self.answering.release(sequence)


def _event(item: Item) -> pb.AnswerEvent:
    if isinstance(item, Waiting):
        return pb.AnswerEvent(waiting=pb.AnswerWaiting(cause=item.cause, done=item.done, total=item.total))
    if isinstance(item, PromptFrames):
        return pb.AnswerEvent(frames=to_frames_message(item))
    if isinstance(item, PromptTokens):
        return pb.AnswerEvent(prompt=pb.PromptTokens(tokens=map(to_token_message, item.tokens)))
    if not isinstance(item, QueuedToken):
        done, total = item
        return pb.AnswerEvent(prefill=pb.PrefillProgress(done=done, total=total))
    return pb.AnswerEvent(token=to_token_message(item.token, item.stats, item.finish_reason))


def _pairs(values: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _request_id(message: pb.AnswerRequest) -> str:
    if message.request_id and len(message.request_id) != 16:
        raise InvalidRequestError(f"a request id must have 16 bytes, got {len(message.request_id)}")
    return message.request_id.hex() or uuid.uuid4().hex


def _json(text: str, kind: type[Any]) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"a field of the request is not JSON: {exc}") from exc
    if not isinstance(value, kind):
        raise InvalidRequestError(f"a field of the request must be {kind.__name__}, got {type(value).__name__}")
    return value
