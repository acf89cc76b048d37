"""Placing: makes a placement on the present nodes, from their measurements of themselves and their links."""

from __future__ import annotations

from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, PlacementError
from cluster.placement import Links, ModelCosts, NodeCapacity, Placement, repair, solve
from cluster.placement.nodes import capacity, links_from
from mlx_moe.decoding.chunking import ChunkRule

CONTEXTS = (32768, 8192, 2048)
"""Positions of KV cache for one request, tried in this order if the request does not say a number."""


def capacities(state: NodeState) -> list[NodeCapacity]:
    """Return the capacities of this node and of the present ones."""
    infos = [state.own, *(member.info for member in state.present.values())]
    return [capacity(info, state.name(info.node_id)) for info in infos]


def links(state: NodeState) -> Links:
    """Return the links between present nodes, as they have measured them."""
    own = state.own.node_id
    return links_from(own, {node_id: state.links_of(node_id) for node_id in (own, *state.present)})


def float_bytes(state: NodeState) -> int:
    """Return the bytes of the floats in which all nodes compute. Raises ClusterError if these differ."""
    dtypes = {state.own.node_id: state.own.hardware.dtype}
    dtypes |= {node_id: member.info.hardware.dtype for node_id, member in state.present.items()}
    if len(set(dtypes.values())) > 1:
        said = ", ".join(f"{state.name(node_id)} in {dtype}" for node_id, dtype in dtypes.items())
        raise ClusterError(f"the nodes compute in different numbers ({said}), so one cannot go on where another ended")
    return 4 if state.own.hardware.dtype == "float32" else 2


def place(
    model: ModelCosts,
    nodes: list[NodeCapacity],
    between: Links,
    context_tokens: int,
    concurrency: int,
    chunks: ChunkRule | None = None,
) -> Placement:
    """Return the placement that answers one user fastest. Raises PlacementError if none fits."""
    longest = model.context.tokens
    wanted = [context_tokens] if context_tokens else sorted({min(c, longest) for c in CONTEXTS}, reverse=True)
    for tokens in wanted[:-1]:
        try:
            return solve(model, nodes, between, context_tokens=tokens, concurrency=concurrency, chunks=chunks)
        except PlacementError:
            continue
    return solve(model, nodes, between, context_tokens=wanted[-1], concurrency=concurrency, chunks=chunks)


def repaired(former: Placement, model: ModelCosts, nodes: list[NodeCapacity], between: Links) -> Placement:
    """Return the placement after nodes were lost: `nodes` are left. Raises PlacementError if the model does not fit.

    The KV room may be smaller, if the model does not fit otherwise.
    """
    rooms = [(former.context_tokens, former.concurrency), (former.context_tokens, 1)]
    rooms += [(tokens, 1) for tokens in CONTEXTS if tokens < former.context_tokens]
    for tokens, concurrency in rooms[:-1]:
        try:
            return repair(former, model, nodes, between, context_tokens=tokens, concurrency=concurrency)
        except PlacementError:
            continue
    return repair(former, model, nodes, between, context_tokens=rooms[-1][0], concurrency=1)
