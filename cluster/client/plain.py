"""Plain clients for threads and scripts: blocking calls of NodeClient and ModelClient, which run in an event loop."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc

from cluster.client.about import NodeAbout
from cluster.client.answer_stream import AnswerEvent, AnswerStream, Begun, Prefilled, PromptScored, Waiting, Written
from cluster.client.gateway_options import GatewayOptions
from cluster.client.loop_thread import shared_loop
from cluster.client.model import ModelClient, Place
from cluster.client.node import CALL_S, NodeClient
from cluster.client.status import ClusterStatus, LoadStatus, NodeProgress
from cluster.client.wanted import Wanted
from cluster.home import Home
from cluster.model_list import ListedModel
from cluster.placement import Rebalance
from cluster.timeline import Timeline
from cluster.trust import Credentials
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.errors import MoeClusterError

GLANCE_S = 1.0
"""Cache lifetime of `glance`, and the timeout of the call that refreshes it."""

T = TypeVar("T")

OnWaiting = Callable[[Waiting | None], None]
"""Called with what an answer waits for; with None when it continues."""

WAIT_S = 0.1
"""How often `progress` is called while no event arrives."""


class OwnNode:
    """The node daemon of this machine. Close it, or use it as a context manager. Raises as NodeClient does."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node
        self._loop = shared_loop()
        self._here: Set[str] = frozenset()
        self._glanced_at = -math.inf

    @classmethod
    def connect(cls, home: Home) -> OwnNode:
        """Return the daemon of a home. Raises NoClusterError if none runs, or it is not up yet."""
        return cls(shared_loop().run(NodeClient.connect(home)))

    def status(self, timeout_s: float = CALL_S) -> ClusterStatus:
        """Return the cluster's status as this node sees it."""
        return self._loop.run(self._node.status(timeout_s))

    def load(self, wanted: Wanted) -> Iterator[LoadStatus]:
        """Load a model; yield the progress until it is ready. Loading continues if the caller stops iterating."""
        steps = self._node.load(wanted)
        try:
            while (step := self._loop.run(_next(steps))) is not None:
                yield step
        finally:
            self._loop.run(steps.aclose())

    def pull(
        self, wanted: Wanted, nodes: Sequence[str] = (), *, dry_run: bool = False
    ) -> Iterator[tuple[NodeProgress, ...]]:
        """Copy a model to the disks of nodes, see `NodeClient.pull`; yield their progress."""
        steps = self._node.pull(wanted, nodes, dry_run=dry_run)
        try:
            while (step := self._loop.run(_next(steps))) is not None:
                yield step
        finally:
            self._loop.run(steps.aclose())

    def models(self) -> list[ListedModel]:
        """Return the models on the disks of all present nodes."""
        return self._loop.run(self._node.models())

    def about(self) -> list[NodeAbout]:
        """Return what all present nodes tell about themselves, this one first."""
        return self._loop.run(self._node.about())

    def log_lines(self, node: str, n_lines: int, cursor: str = "") -> tuple[list[str], str]:
        """Return the last lines of a node's logs, or those after a cursor; and a cursor."""
        return self._loop.run(self._node.log_lines(node, n_lines, cursor))

    def glance(self) -> Set[str]:
        """Return the ids of the present nodes, possibly cached; empty if the node does not answer."""
        if time.monotonic() - self._glanced_at > GLANCE_S:
            try:
                self._here = self.status(GLANCE_S).here.keys()
            except MoeClusterError:  # the display cannot report it; the next request will
                self._here = frozenset()
            self._glanced_at = time.monotonic()
        return self._here

    def unload(self, reason: str) -> str:
        """Unload the cluster's model; return its name, "" if there was none."""
        return self._loop.run(self._node.unload(reason))

    def rebalance(self, *, dry_run: bool) -> Rebalance:
        """Move the cluster's model to the best placement, see `NodeClient.rebalance`."""
        return self._loop.run(self._node.rebalance(dry_run=dry_run))

    def serve(self, options: GatewayOptions) -> str:
        """Serve the HTTP APIs on this machine; return their URL. Raises ClusterError if the port is taken."""
        return self._loop.run(self._node.serve(options))

    def stop_serving(self) -> str:
        """End the HTTP APIs of this machine; return where they were, "" if there were none."""
        return self._loop.run(self._node.stop_serving())

    def remove(self, name: str) -> tuple[str, bool]:
        """Remove a node from the cluster; return its name, and whether it was a keeper of the authority."""
        return self._loop.run(self._node.remove(name))

    def stop(self, *, for_good: bool = False) -> None:
        """Stop the node and wait until it has ended; `for_good`: it leaves its cluster."""
        self._loop.run(self._node.stop(for_good=for_good))

    def model(self, status: ClusterStatus) -> RemoteModel:
        """Return the model that the cluster serves. Raises NoClusterError if it serves none."""
        return RemoteModel(self._loop.run(self._node.model(status)))

    def settled(self) -> ClusterStatus:
        """Return the status once all nodes have reported what they hold of the model. Raises NodeLostError."""
        return self._loop.run(self._node.settled())

    def meet_others(self) -> None:
        """Wait until no further node appears for a while."""
        self._loop.run(self._node.meet_others())

    def wait_for_nodes(self, count: int) -> ClusterStatus:
        """Return the status once `count` nodes are present."""
        return self._loop.run(self._node.wait_for_nodes(count))

    def close(self) -> None:
        """Close the channel."""
        self._loop.run(self._node.close())

    def __enter__(self) -> OwnNode:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class RemoteModel:
    """A model that the cluster serves."""

    def __init__(self, model: ModelClient) -> None:
        self.description = model.description
        self._model = model
        self._loop = shared_loop()

    @classmethod
    def connect(cls, credentials: Credentials, node_id: str, address: str) -> RemoteModel:
        """Return the model that a node coordinates. Raises NodeLostError."""
        return cls(shared_loop().run(ModelClient.connect(credentials, Place(node_id, address))))

    def format_chat(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[int]:
        """Return the prompt of a chat, up to where the answer begins."""
        return self._loop.run(self._model.format_chat(messages, variables))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        return self._loop.run(self._model.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids."""
        return self._loop.run(self._model.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def timeline(self) -> Timeline:
        """Return what each stage did since the last call of any client, as far back as stages remember."""
        return self._loop.run(self._model.timeline())

    def new_conversation(self) -> RemoteConversation:
        """Return a conversation; close it to free its KV caches."""
        return RemoteConversation(self._model)

    def close(self) -> None:
        """Close the channel; the model stays loaded."""
        self._loop.run(self._model.close())


class RemoteConversation:
    """Requests that share their prefix."""

    def __init__(self, model: ModelClient) -> None:
        self._model = model
        self._id = uuid.uuid4().bytes
        self._held = shared_loop().run(_hold(model, self._id))

    def answer(
        self,
        request: Request,
        progress: Callable[[int, int], None] | None = None,
        waiting: OnWaiting | None = None,
    ) -> RemoteAnswer:
        """Answer a request.

        `progress` is called with the prompt positions done and to do, at least every WAIT_S until the first token.
        `waiting` is called as often while the answer waits because a part of the model was lost or is moved, and once
        with None when it continues. An exception that one of them raises ends the answer.

        Raises:
            InvalidRequestError: before any work.
        """
        if self._held.done():  # the coordinator was lost; another one keeps the conversation from now on
            self._held = shared_loop().run(_hold(self._model, self._id))
        return RemoteAnswer(self._model, request, self._id, progress, waiting)

    def close(self) -> None:
        """Free the KV caches; ignored if the coordinator has ended."""
        loop = shared_loop()
        loop.run(self._model.close_conversation(self._id))
        loop.soon(self._held.cancel)


class RemoteAnswer:
    """An answer as it is written: an iterator of tokens. `finish_reason` is None until it ended.

    Any thread may close it, also while another one waits for its next token.
    """

    def __init__(
        self,
        model: ModelClient,
        request: Request,
        conversation_id: bytes,
        progress: Callable[[int, int], None] | None,
        waiting: OnWaiting | None = None,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.stats = GenerationStats(prompt_tokens=len(request.input_ids))
        self._progress = progress
        self._on_waiting = waiting
        self._waiting: Waiting | None = None
        self._prefilled: Prefilled | None = Prefilled(0, len(request.input_ids))
        self._loop = shared_loop()
        self._stream = self._loop.run(_begin(model, request, conversation_id))
        begun = self._read()
        assert isinstance(begun, Begun)  # always the first event
        self.seed = begun.seed
        self.request_id = self._stream.request_id

    def __iter__(self) -> Iterator[Token]:
        """Return itself."""
        return self

    def __next__(self) -> Token:
        """Return the next token. Raises StopIteration when the answer ended, MoeClusterError when it failed."""
        written = None if self.finish_reason == "cancelled" else self._read()
        if isinstance(written, Written):
            self._prefilled = None
            self._wait_for(None)
            for field in dataclasses.fields(GenerationStats):
                setattr(self.stats, field.name, getattr(written.stats, field.name))
            self.finish_reason = written.finish_reason
            return written.token
        if self.finish_reason is None:  # its conversation was closed
            self.finish_reason = "cancelled"
        raise StopIteration

    def close(self) -> None:
        """End the answer now; tokens written so far stay."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
        self._cancel()

    def _read(self) -> Begun | Written | None:
        """Return the next event other than progress; None at the end and after `close`."""
        try:
            while True:
                event = self._wait(self._loop.start(self._stream.read()))
                if isinstance(event, Waiting):
                    self._wait_for(event)
                elif isinstance(event, Prefilled):
                    self._wait_for(None)
                    self._prefilled = event
                    self._tell_progress()
                elif not isinstance(event, PromptScored):
                    return event
        except concurrent.futures.CancelledError:
            return None
        except BaseException:  # also of this thread, such as KeyboardInterrupt
            self._cancel()
            raise

    def _wait(self, event: Future[AnswerEvent | None]) -> AnswerEvent | None:
        while not concurrent.futures.wait((event,), WAIT_S).done:
            self._tell_progress()
        return event.result()

    def _wait_for(self, waiting: Waiting | None) -> None:
        """Tell what the answer waits for; None: for nothing any more."""
        if self._on_waiting is not None and (waiting or self._waiting) is not None:
            self._on_waiting(waiting)
        self._waiting = waiting

    def _tell_progress(self) -> None:
        if self._waiting is not None:
            self._wait_for(self._waiting)
        elif self._progress is not None and self._prefilled is not None:
            self._progress(self._prefilled.done, self._prefilled.total)

    def _cancel(self) -> None:
        self._loop.soon(self._stream.cancel)


async def _next(steps: AsyncIterator[T]) -> T | None:
    return await anext(steps, None)


async def _hold(model: ModelClient, conversation_id: bytes) -> grpc.aio.UnaryStreamCall[Any, Any]:
    return model.hold_conversation(conversation_id)


async def _begin(model: ModelClient, request: Request, conversation_id: bytes) -> AnswerStream:
    return model.answer(request, conversation_id)
