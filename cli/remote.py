"""The models of the cluster, through this machine's own node. They stay loaded after `close`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cli.backend import Answer, Backend, Conversation, lasting
from cli.loading import load
from cli.nodes import cluster_table, holders, holders_table, node_rows
from cli.options import LoadOptions
from cli.progress import OnProgress
from cli.units import rate_text, tokens_text
from cli.waiting import OnWaiting, WaitingLine
from cluster.client import ClusterStatus, OwnNode, RemoteConversation, RemoteModel, Wanted
from cluster.cost_reader import read_costs
from cluster.home import Home
from cluster.placement import predict
from mlx_moe.checkpoint import library
from mlx_moe.decoding.request import Request
from mlx_moe.errors import InvalidRequestError, UnsupportedModelError
from mlx_moe.node_placement import NodePlacement

if TYPE_CHECKING:
    from cli.tables import HeadedTable


GLANCE_S = 1.0


class ClusterModels:
    """Opens models on the cluster of a home's node."""

    def __init__(self, home: Home, options: LoadOptions | None = None) -> None:
        self._home = home
        self._options = options or LoadOptions()

    @classmethod
    def of(cls, home: Home, options: LoadOptions) -> ClusterModels:
        """Return the models of a home's cluster. Raises NoClusterError if no node runs."""
        OwnNode.connect(home).close()
        return cls(home, options)

    @property
    def served(self) -> str | None:
        """The model that the cluster serves, if any."""
        with OwnNode.connect(self._home) as node:
            ready = node.status().ready
        return ready.model if ready else None

    def check(self, model: str) -> None:
        """Read config and headers, as the node that places the model does. Other nodes or the hub may have more."""
        try:
            read_costs(lasting(model), float_bytes=2)
        except InvalidRequestError:
            library.on_hub(model)

    def open(self, model: str, *, needs_text: bool = True) -> Backend:
        """Load a model on the cluster unless it is loaded."""
        node = OwnNode.connect(self._home)
        try:
            backend = ClusterBackend(self._home, node, wanted(lasting(model), self._options))
            if needs_text and (failure := backend.remote.description.text_failure):
                backend.remote.close()
                raise UnsupportedModelError(failure)
            return backend
        except BaseException:
            node.close()
            raise


def wanted(model: str, options: LoadOptions) -> Wanted:
    """Return what to ask of the cluster."""
    return Wanted(
        model,
        context_tokens=options.context_tokens or 0,
        chunk=options.chunk or 0,
        latency_s=options.latency_s or 0.0,
        replace=options.replace,
        download=options.download,
        keep=options.keep,
        bits=options.bits or 0,
        mode=options.mode or "",
    )


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
        status = self._node.settled()
        self.remote: RemoteModel = self._node.model(status)
        self._plan = loaded.placement
        self._serving = status.serving
        self._holders = {row.node_id for row in holders(node_rows(status))}
        description = self.remote.description
        self.sampling = description.sampling
        self.notes = description.notes
        self.dialect = description.dialect
        self.thoughts_apart = description.thoughts_apart
        self.context_tokens = min(description.context_tokens, description.kv_positions)
        self.kv_bytes_per_token = description.kv_bytes_per_token
        self.has_chat_template = description.has_chat_template
        self.load_s = self._serving.load_s if self._serving else 0.0

    @property
    def placement(self) -> Sequence[NodePlacement]:
        """The nodes that hold a part, with their peak memory so far."""
        return [row.placement for row in holders(node_rows(self._node.status()))]

    @property
    def label(self) -> str:
        """How many of the model's nodes are present, as last seen."""
        here = self._node.glance()
        return f"{len(here & self._holders)}/{len(self._holders)} nodes"

    @property
    def prediction(self) -> str:
        """Predicted speed, if this node made the plan."""
        if self._plan is None:
            return ""
        status = self._node.status()
        costs = read_costs(self.name, float_bytes=status.float_bytes)
        predicted = predict(self._plan, costs, status.capacities(), status.links())
        room = self.remote.description.kv_positions
        return (
            f"the KV cache holds {tokens_text(room)} tokens of all requests together; predicted: "
            f"{rate_text(predicted.tokens_per_s)} for one user, {rate_text(predicted.most_tokens_per_s)} for many"
        )

    def glance(self) -> ClusterStatus:
        """Return the cluster's status if the node answers soon. Raises MoeClusterError."""
        return self._node.status(GLANCE_S)

    def nodes_table(self) -> HeadedTable:
        """Return the nodes that hold a part and the links to them; all nodes if none holds a part."""
        rows = node_rows(self._node.status())
        return holders_table(rows) if holders(rows) else cluster_table(rows)

    def ensure_ready(self) -> None:
        """Reload the model if it is no longer served."""
        ready = self._node.status().ready
        if ready is None or self._serving is None or ready.epoch != self._serving.epoch:
            before = self.remote
            self._load(replace(self._wanted, replace=False))  # another user may have loaded another model since
            before.close()

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Return the token ids of a chat, rendered by the coordinator."""
        return self.remote.format_chat(messages, variables)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Encode by the model's tokenizer."""
        return self.remote.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Decode by the model's tokenizer."""
        return self.remote.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def new_conversation(self) -> Conversation:
        """Return a conversation that survives a reload (its cache does not)."""
        return _ClusterConversation(self)

    def close(self) -> None:
        """Close the connections; the model stays loaded."""
        self.remote.close()
        self._node.close()


class _ClusterConversation:
    def __init__(self, backend: ClusterBackend) -> None:
        self._backend = backend
        self._begin()

    def answer(self, request: Request, progress: OnProgress | None = None, waiting: OnWaiting | None = None) -> Answer:
        if self._remote is not self._backend.remote:
            self._begin()
        line = None if waiting is None else WaitingLine(self._backend.glance, waiting)
        return self._conversation.answer(request, progress, line)

    def close(self) -> None:
        self._conversation.close()

    def _begin(self) -> None:
        self._remote = self._backend.remote
        self._conversation: RemoteConversation = self._remote.new_conversation()
