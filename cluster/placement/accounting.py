"""Accounting: the bytes that a placement needs on each node, compared with what the node offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import PlacementError
from cluster.placement.capacity import HARD_LIMIT, NodeCapacity, size_text
from cluster.placement.costs import LONGEST_CHUNK, ModelCosts
from cluster.placement.placement import Placement, StagePlacement
from cluster.placement.search import Integers
from cluster.placement.timing import Owner
from mlx_moe.decoding.chunking import DEFAULT_RULE, ChunkRule

MAX_CONTEXTS = 64
"""Upper limit of the reported KV room, in full contexts: a small model would leave room for absurdly many."""


@dataclass(frozen=True, slots=True)
class Load:
    """The bytes that one node holds: weights, and KV cache per position."""

    weights_bytes: int
    kv_bytes: int


def budget(model: ModelCosts, node: NodeCapacity) -> int:
    """Return the bytes that weights and KV cache may use on a node; negative if it has no room for a worker."""
    return int(HARD_LIMIT * node.memory_bytes) - model.temporary_bytes


def first_layers(model: ModelCosts, owners: Sequence[Owner], positions: int, reserved: int = 0) -> Integers:
    """Return for each boundary b the first layer a for which [a, b) fits its owners, the leader first.

    There is KV room for `positions`; the leader needs `reserved` bytes besides.
    """
    first = np.zeros(len(model.layers) + 1, dtype=np.int64)
    for i, owner in enumerate(owners):
        held = prefix_sums(
            [
                layer.owned_bytes(owner.n_experts, positions) if i == 0 else owner.n_experts * layer.expert_bytes
                for layer in model.layers
            ]
        )
        free = budget(model, owner.node) - (reserved if i == 0 else 0)
        first = np.maximum(first, np.searchsorted(held, held - free) if free >= 0 else np.arange(len(held)))
    return first


def prefix_sums(values: Sequence[int]) -> Integers:
    """Return the sum of all values before each boundary: 0, then one number a value."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def loads(model: ModelCosts, stages: Sequence[StagePlacement]) -> dict[str, Load]:
    """Return the load of each node of the stages, by node id."""
    held: dict[str, Load] = {}
    for i, stage in enumerate(stages):
        weights, kv = 0, 0
        if i == 0:
            weights, kv = model.coordinator_bytes(0), model.mtp.kv_bytes if model.mtp else 0
        for layer in stage.layers:
            owned = len(stage.owned_experts.get(layer, range(model.n_experts)))
            weights += model.layers[layer].owned_bytes(owned, 0) + model.layers[layer].cache.fixed_bytes
            kv += model.layers[layer].kv_bytes
        held[stage.node_id] = Load(weights, kv)
        for peer in stage.peers:
            expert_bytes = sum(model.layers[x].expert_bytes * len(e) for x, e in peer.owned_experts.items())
            held[peer.node_id] = Load(expert_bytes, 0)
    return held


def shortage(model: ModelCosts, nodes: Sequence[NodeCapacity], positions: int) -> str:
    """Return a text that says what the model needs with KV room for `positions`, and what the nodes offer."""
    mtp = model.mtp
    weights = model.stored_bytes
    kv = positions * (model.kv_bytes_per_position + (mtp.kv_bytes if mtp else 0))
    offered = sum(max(0, budget(model, node)) for node in nodes)
    short = weights + kv - offered
    return (
        f"{model.name} needs {size_text(weights)} for its weights and {size_text(kv)} for the KV cache of "
        f"{positions} positions; {len(nodes)} node{'s' * (len(nodes) > 1)} can give {size_text(offered)}, "
        + (f"{size_text(short)} too little" if short > 0 else "but not in shares that whole layers fit")
    )


def placed(
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    stages: Sequence[StagePlacement],
    *,
    context_tokens: int,
    concurrency: int,
    chunks: ChunkRule = DEFAULT_RULE,
) -> Placement:
    """Return the placement that consists of the stages and cuts prompts by `chunks`.

    Raises:
        PlacementError: a node does not exist, or has less memory than its part needs.
    """
    offered = {node.node_id: node for node in nodes}
    positions = context_tokens * concurrency
    held = loads(model, stages)
    room = MAX_CONTEXTS * model.context.longest
    longer = max(0, chunks.longest - LONGEST_CHUNK) * model.position_bytes
    for node_id, load in held.items():
        if node_id not in offered:
            there = ", ".join(node.name for node in nodes)
            raise PlacementError(f"the plan uses node {node_id}, which is not there; there are {there}")
        node = offered[node_id]
        free = budget(model, node) - longer
        needed = load.weights_bytes + positions * load.kv_bytes
        if needed > free:
            beside = f" beside chunks of {chunks.longest} tokens" if longer else ""
            raise PlacementError(
                f"node {node.name} offers {size_text(max(0, free))}{beside}, its part needs "
                f"{size_text(needed)}: {size_text(load.weights_bytes)} of weights and "
                f"{size_text(positions * load.kv_bytes)} of KV cache for {positions} positions; give it fewer layers, "
                f"or lower the context or the number of users"
            )
        if load.kv_bytes:
            room = min(room, (free - load.weights_bytes) // load.kv_bytes)
    return Placement(
        model=model.name,
        content_hash="",
        stages=tuple(stages),
        context_tokens=context_tokens,
        concurrency=concurrency,
        kv_positions=room,
        node_bytes={node_id: load.weights_bytes for node_id, load in held.items()},
        chunks=chunks,
    )


def spare_bytes(model: ModelCosts, nodes: Sequence[NodeCapacity], placement: Placement) -> int:
    """Return the smallest number of bytes that a node has left beside its weights and the requested KV cache."""
    offered = {node.node_id: budget(model, node) for node in nodes}
    positions = placement.context_tokens * placement.concurrency
    held = loads(model, placement.stages)
    return min(offered[node_id] - load.weights_bytes - positions * load.kv_bytes for node_id, load in held.items())
