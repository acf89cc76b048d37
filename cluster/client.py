"""Client: how this machine's command line speaks to its own node, and to the coordinator of the cluster's model.

Plain calls that wait, for threads and scripts; it shows the node's own certificate.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc

from cluster.errors import ClusterError, NoClusterError, NodeLostError
from cluster.home import Home
from cluster.lock import POLL_S, is_held
from cluster.placement import Placement
from cluster.request_message import from_sampling_message, from_token_message, to_request_message
from cluster.rpc_errors import translated
from cluster.timeline import Timeline
from cluster.trust import Credentials, Insecure, MutualTLS, NodeIdentity
from cluster.wire import coordinator_pb2, coordinator_pb2_grpc, node_pb2_grpc
from cluster.wire import node_pb2 as pb
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token

CALL_S = 30.0
"""For calls that only ask."""

STOP_S = 30.0
"""For a node to unload its model, say goodbye and end."""


class OwnNode:
    """The node daemon of this machine. Close it, or use it as a context manager."""

    def __init__(self, home: Home, credentials: Credentials, node_id: str, address: str) -> None:
        self._home = home
        self._credentials = credentials
        self._address = address
        self._channel = credentials.channel(address, node_id)
        self._stub = node_pb2_grpc.ControlStub(self._channel)

    @classmethod
    def connect(cls, home: Home) -> OwnNode:
        """Return the daemon of a home.

        Raises:
            NoClusterError: none runs, or it is not up yet.
            ClusterError: what it says of itself cannot be read.
        """
        node_id, address, insecure = _announced(home)
        credentials = Insecure(node_id) if insecure else MutualTLS(NodeIdentity.load(home.identity))
        return cls(home, credentials, node_id, address)

    def status(self, timeout_s: float = CALL_S) -> pb.ClusterStatus:
        """Return how the cluster stands, as this node sees it."""
        with self._called():
            status: pb.ClusterStatus = self._stub.Status(pb.StatusRequest(), timeout=timeout_s)
        return status

    def load(
        self,
        model: str,
        *,
        placement: Placement | None = None,
        context_tokens: int = 0,
        concurrency: int = 0,
        draft: str = "",
        replace: bool = False,
        chunk_length: int = 0,
    ) -> Iterator[pb.LoadStatus]:
        """Yield how far the loading of a model is, until it is ready. It goes on where nobody listens any more.

        `draft` is "mtp", "ngram", "none" or a small model of the same vocabulary; "" the best that the model offers.
        `replace` lets it take the place of another model that is idle. `chunk_length` is that of every prompt's
        chunks; 0: as is predicted to be fastest.

        Raises:
            OccupiedError: another model is served, and `replace` was not said.
            MoeClusterError: it cannot be loaded, or failed meanwhile.
        """
        request = pb.LoadRequest(
            model=model,
            placement="" if placement is None else json.dumps(placement.to_json()),
            context_tokens=context_tokens,
            concurrency=concurrency,
            draft=draft,
            replace=replace,
            chunk_length=chunk_length,
        )
        with self._called():
            yield from self._stub.Load(request)

    def unload(self, reason: str) -> str:
        """Take the cluster's model away; return which it was, "" if there was none."""
        with self._called():
            return str(self._stub.Unload(pb.UnloadRequest(reason=reason), timeout=CALL_S).model)

    def stop(self) -> None:
        """End the node, and wait until it has. Raises NodeLostError where that takes longer than STOP_S."""
        with self._called():
            self._stub.Stop(pb.StopRequest(), timeout=CALL_S)
        deadline = time.monotonic() + STOP_S
        while is_held(self._home.lock):
            if time.monotonic() > deadline:
                raise NodeLostError(
                    f"the node was told to stop, but still runs after {STOP_S:g} s; see {self._home.logs}"
                )
            time.sleep(POLL_S)

    def coordinator(self, status: pb.ClusterStatus) -> RemoteModel:
        """Return the model that the cluster serves. Raises NoClusterError where it serves none."""
        if not status.coordinator_address:
            raise NoClusterError("no model is loaded; `moe-cluster up MODEL` loads one")
        coordinator = status.serving.coordinator
        name = next(node.shown_name for node in status.nodes if node.info.node_id == coordinator)
        return RemoteModel(
            self._credentials, coordinator, status.coordinator_address, f"node {name}, which coordinates,"
        )

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    @contextlib.contextmanager
    def _called(self) -> Iterator[None]:
        """Call it, and say so where it has ended."""
        try:
            with translated("this machine's node"):
                yield
        except NodeLostError as error:
            with contextlib.suppress(NoClusterError):
                if _announced(self._home)[1] == self._address:
                    raise
            raise NoClusterError("this machine's node has ended: moe-cluster up starts it again") from error

    def __enter__(self) -> OwnNode:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _announced(home: Home) -> tuple[str, str, bool]:
    """Return id and address of a home's daemon, and whether it is insecure. Raises as `OwnNode.connect`."""
    if not is_held(home.lock):  # its pid may live again, as that of another process
        raise NoClusterError("no node runs on this machine: moe-cluster up starts one")
    try:
        value = json.loads(home.daemon.read_text())
        return value["node_id"], value["address"], value["insecure"]
    except FileNotFoundError as exc:
        raise NoClusterError("the node of this machine is starting or ending: try again in a moment") from exc
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
        raise ClusterError(
            f"{home.daemon} cannot be read ({exc}), and a node runs: end its process, and moe-cluster up again"
        ) from exc


class RemoteModel:
    """A model that the cluster serves, by its coordinator."""

    def __init__(self, credentials: Credentials, node_id: str, address: str, called: str = "the coordinator") -> None:
        self._callee = called
        self._channel = credentials.channel(address, node_id)
        self._stub = coordinator_pb2_grpc.CoordinatorStub(self._channel)
        with translated(self._callee):
            self.description: coordinator_pb2.ModelDescription = self._stub.Describe(
                coordinator_pb2.DescribeRequest(), timeout=CALL_S
            )
        self.sampling = from_sampling_message(self.description.sampling)

    def format_chat(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[int]:
        """Return the prompt of a chat, up to where the answer begins."""
        request = coordinator_pb2.FormatChatRequest(messages=json.dumps(messages), variables=json.dumps(variables))
        with translated(self._callee):
            return list(self._stub.FormatChat(request, timeout=CALL_S).token_ids)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        request = coordinator_pb2.EncodeRequest(text=text, add_special_tokens=add_special_tokens)
        with translated(self._callee):
            return list(self._stub.Encode(request, timeout=CALL_S).token_ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids."""
        request = coordinator_pb2.DecodeRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        with translated(self._callee):
            return str(self._stub.Decode(request, timeout=CALL_S).text)

    def timeline(self) -> Timeline:
        """Return what each stage did since somebody asked last, as far back as they remember."""
        request = coordinator_pb2.TimelineRequest()
        with translated(self._callee):
            return Timeline.read(self._stub.Timeline(request, timeout=CALL_S))

    def new_conversation(self) -> RemoteConversation:
        """Return a conversation; close it to free its KV caches."""
        return RemoteConversation(self._stub, self._callee)

    def close(self) -> None:
        """Close the channel; the model stays loaded."""
        self._channel.close()


class RemoteConversation:
    """Requests that share a beginning."""

    def __init__(self, stub: coordinator_pb2_grpc.CoordinatorStub, callee: str) -> None:
        self._stub = stub
        self._callee = callee
        self._id = uuid.uuid4().bytes

    def answer(self, request: Request, progress: Callable[[int, int], None] | None = None) -> RemoteAnswer:
        """Answer a request. `progress` is called with prompt positions; what it raises ends the answer.

        Raises:
            InvalidRequestError: before any work.
        """
        message = to_request_message(request, self._id, uuid.uuid4().bytes)
        return RemoteAnswer(self._stub.Answer(message), len(request.input_ids), progress, self._callee)

    def close(self) -> None:
        """Free what it keeps; a coordinator that is gone keeps nothing."""
        with contextlib.suppress(grpc.RpcError):
            self._stub.CloseConversation(coordinator_pb2.ConversationId(conversation_id=self._id), timeout=CALL_S)


class RemoteAnswer:
    """An answer as it is written: an iterator of tokens. `finish_reason` is None until it ended."""

    def __init__(self, call: Any, prompt_tokens: int, progress: Callable[[int, int], None] | None, callee: str) -> None:
        self.finish_reason: FinishReason | None = None
        self.stats = GenerationStats(prompt_tokens=prompt_tokens)
        self._call = call
        self._progress = progress
        self._callee = callee
        with translated(callee):
            self.seed: int = next(call).begun.seed

    def __iter__(self) -> Iterator[Token]:
        """Return itself."""
        return self

    def __next__(self) -> Token:
        """Return the next token. Raises StopIteration when the answer ended, MoeClusterError when it failed."""
        if self.finish_reason == "cancelled":
            raise StopIteration
        try:
            with translated(self._callee):
                for event in self._call:
                    match event.WhichOneof("event"):
                        case "prefill":
                            if self._progress is not None:
                                self._progress(event.prefill.done, event.prefill.total)
                        case "token":
                            return self._take(event.token)
        except BaseException:  # of the reader's own too, Ctrl-C above all
            self._call.cancel()
            raise
        if self.finish_reason is None:  # its conversation was closed
            self.finish_reason = "cancelled"
        raise StopIteration

    def close(self) -> None:
        """End it now; what was written stays."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
        self._call.cancel()

    def _take(self, token: coordinator_pb2.AnswerToken) -> Token:
        written, self.stats, self.finish_reason = from_token_message(token)
        return written
