"""The models of the cluster, over this machine's own node. They stay loaded when whoever uses them leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cli.backend import Answer, Backend, Conversation, lasting
from cli.loading import Wanted, load, settled
from cli.nodes import PRESENT, cluster_table, holders, holders_table, node_rows
from cli.progress import Progress
from cli.units import rate_text, tokens_text
from cluster.client import OwnNode, RemoteConversation, RemoteModel
from cluster.cost_reader import read_costs
from cluster.errors import NoClusterError
from cluster.home import Home
from cluster.membership.node_message import from_message, links_from_messages
from cluster.placement import Links, NodeCapacity, Placement, predict
from cluster.placement.nodes import capacity, links_from
from cluster.wire import node_pb2 as pb
from mlx_moe.decoding.request import Request
from mlx_moe.errors import MoeClusterError, UnsupportedModelError
from mlx_moe.node_placement import NodePlacement
from mlx_moe.text.thought import ThoughtMarkers

if TYPE_CHECKING:
    from cli.tables import HeadedTable

LOOK_S = 1.0
"""Cache lifetime of the status bar's node count, and the timeout of the call that refreshes it."""


class ClusterModels:
    """The models of the cluster that a home's node is in. With `replace` they take the place of an idle one.

    `chunk` is the length of every prompt's chunks; 0: chosen by the placement.
    """

    def __init__(self, home: Home, replace: bool = False, context_tokens: int = 0, chunk: int = 0) -> None:
        self._home = home
        self._chunk = chunk
        self._replace = replace
        self._context_tokens = context_tokens

    @classmethod
    def of(cls, home: Home, replace: bool, context_tokens: int, chunk: int) -> ClusterModels:
        """Return the models of a home's cluster. Raises NoClusterError where no node runs."""
        OwnNode.connect(home).close()
        return cls(home, replace, context_tokens, chunk)

    @property
    def served(self) -> str | None:
        """The model that the cluster serves, if it does."""
        with OwnNode.connect(self._home) as node:
            serving = node.status().serving
        return serving.model if serving.state == pb.Serving.READY and serving.epoch else None

    def check(self, model: str) -> None:
        """Read config and headers, as the node does that places it."""
        read_costs(lasting(model), float_bytes=2)

    def open(self, model: str, *, needs_text: bool = True) -> Backend:
        """Load a model on the cluster, unless it is."""
        node = OwnNode.connect(self._home)
        try:
            wanted = Wanted(
                lasting(model), context_tokens=self._context_tokens, replace=self._replace, chunk=self._chunk
            )
            backend = ClusterBackend(self._home, node, wanted)
            if needs_text and (failure := backend.remote.description.text_failure):
                backend.remote.close()
                raise UnsupportedModelError(failure)
            return backend
        except BaseException:
            node.close()
            raise


class ClusterBackend:
    """A model that the cluster serves."""

    def __init__(self, home: Home, node: OwnNode, wanted: Wanted) -> None:
        self.name = wanted.model
        self._home = home
        self._node = node
        self._wanted = wanted
        self._load(wanted)

    def _load(self, wanted: Wanted) -> None:
        loaded = load(self._node, wanted)
        self._status = settled(self._node)
        self._looked_at = time.monotonic()
        self.remote: RemoteModel = self._node.coordinator(self._status)
        self._plan = Placement.from_json(json.loads(loaded.placement)) if loaded.placement else None
        self._epoch = self._status.serving.epoch
        self._holders = {row.node_id for row in holders(node_rows(self._status))}
        description = self.remote.description
        self.sampling = self.remote.sampling
        self.notes = tuple(description.notes)
        self.thought_markers = ThoughtMarkers(description.thought_open, description.thought_close)
        self.thoughts_apart = description.thoughts_apart
        self.context_tokens = min(description.context_tokens, description.kv_positions)
        self.kv_bytes_per_token = description.kv_bytes_per_token
        self.has_chat_template = description.has_chat_template
        self.load_s = self._status.serving.load_s

    @property
    def placement(self) -> Sequence[NodePlacement]:
        """The nodes that hold a part, with their peak memory until now."""
        return [row.placement for row in holders(node_rows(self._node.status()))]

    @property
    def label(self) -> str:
        """How many of the nodes that the model was loaded on are there, as of a moment ago."""
        self._look()
        here = {node.info.node_id for node in self._status.nodes if node.state == PRESENT}
        return f"{len(here & self._holders)}/{len(self._holders)} nodes"

    @property
    def prediction(self) -> str:
        """What the speed model says, where this machine's node made the plan."""
        if self._plan is None:
            return ""
        status = self._node.status()
        costs = read_costs(self.name, float_bytes=float_bytes(status))
        predicted = predict(self._plan, costs, capacities(status), links(status))
        room = self.remote.description.kv_positions
        return (
            f"the KV cache has room for {tokens_text(room)} tokens of all requests; expected: "
            f"{rate_text(predicted.tokens_per_s)} for one user, {rate_text(predicted.most_tokens_per_s)} for many"
        )

    def nodes_table(self) -> HeadedTable:
        """Return who holds what, and the links from this machine; all nodes where nobody holds anything now."""
        rows = node_rows(self._node.status())
        return holders_table(rows) if holders(rows) else cluster_table(rows)

    def ensure_ready(self) -> None:
        """Load it again, on the nodes that are there, where the cluster does not serve it any more."""
        try:
            serving = self._node.status().serving
        except NoClusterError:  # it ended since; where it is back, it may listen elsewhere
            ended, self._node = self._node, OwnNode.connect(self._home)
            ended.close()
            serving = self._node.status().serving
        if (serving.epoch, serving.state) != (self._epoch, pb.Serving.READY):
            before = self.remote
            self._load(replace(self._wanted, replace=False))  # others may have loaded another one meanwhile
            before.close()

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Let the coordinator render the chat template and encode it."""
        return self.remote.format_chat(messages, variables)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Encode by the model's tokenizer."""
        return self.remote.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Decode by the model's tokenizer."""
        return self.remote.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def new_conversation(self) -> Conversation:
        """Return a conversation; it goes on, with nothing kept, after the model was loaded anew."""
        return _ClusterConversation(self)

    def close(self) -> None:
        """Leave the model to others."""
        self.remote.close()
        self._node.close()

    def _look(self) -> None:
        if time.monotonic() - self._looked_at > LOOK_S:
            try:
                self._status = self._node.status(LOOK_S)
            except MoeClusterError:  # the bar cannot say so; the next request will
                self._status = pb.ClusterStatus()
            self._looked_at = time.monotonic()


class _ClusterConversation:
    def __init__(self, backend: ClusterBackend) -> None:
        self._backend = backend
        self._begin()

    def answer(self, request: Request, progress: Progress | None = None) -> Answer:
        if self._remote is not self._backend.remote:
            self._begin()
        return self._conversation.answer(request, progress)

    def close(self) -> None:
        self._conversation.close()

    def _begin(self) -> None:
        self._remote = self._backend.remote
        self._conversation: RemoteConversation = self._remote.new_conversation()


def capacities(status: pb.ClusterStatus) -> list[NodeCapacity]:
    """Return what the nodes that are here offer."""
    return [capacity(from_message(n.info), n.shown_name) for n in status.nodes if n.state == PRESENT]


def links(status: pb.ClusterStatus) -> Links:
    """Return the links between them, as they have measured them."""
    told = {n.info.node_id: links_from_messages(n.links) for n in status.nodes if n.state == PRESENT}
    return links_from(status.own_node_id, told)


def float_bytes(status: pb.ClusterStatus) -> int:
    """Return the bytes of a float in what this machine's node computes in."""
    return 4 if from_message(status.nodes[0].info).hardware.dtype == "float32" else 2
