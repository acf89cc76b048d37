"""Stages: places a range of layers on a leader, or on a leader and expert peers."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import PlacementError
from cluster.placement.accounting import budget, placed
from cluster.placement.capacity import NodeCapacity
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import ExpertPeer, Placement, StagePlacement
from cluster.placement.striping import divide
from mlx_moe.errors import InvalidRequestError


def make_stage(
    model: ModelCosts, layers: range, leader: NodeCapacity, peers: Sequence[NodeCapacity], positions: int
) -> StagePlacement:
    """Return a stage; with peers, the experts of its MoE layers are striped over leader and peers.

    Raises:
        PlacementError: a peer would own no expert.
    """
    if not peers:
        return StagePlacement(leader.node_id, layers)
    budgets = [budget(model, node) for node in (leader, *peers)]
    owned = divide(model, budgets, positions, coordinator=layers.start == 0)
    split = [layer for layer in layers if model.layers[layer].expert_bytes]
    if owned is None or not split:
        raise PlacementError(
            f"layers {layers.start} to {layers.stop - 1} have no experts for {len(peers)} peers of node {leader.name}; "
            f"take fewer peers"
        )
    return StagePlacement(
        leader.node_id,
        layers,
        dict.fromkeys(split, owned[0]),
        tuple(
            ExpertPeer(peer.node_id, dict.fromkeys(split, experts))
            for peer, experts in zip(peers, owned[1:], strict=True)
        ),
    )


def spread(
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    *,
    layer_splits: Sequence[int],
    expert_peers: Sequence[int] = (),
    context_tokens: int,
    concurrency: int,
) -> Placement:
    """Place a model in a given shape on nodes, used in order: each stage's leader, then its peers.

    `layer_splits` has the number of layers of each stage, `expert_peers` its number of peers (0 beyond its end).

    Raises:
        InvalidRequestError: the numbers of layers do not add up to the model's, or there are too few nodes.
        PlacementError: a node has less memory than its part needs.
    """
    if sum(layer_splits) != len(model.layers) or min(layer_splits, default=0) < 1:
        raise InvalidRequestError(f"stages of {list(layer_splits)} layers do not make a model of {len(model.layers)}")
    peers_of = [*expert_peers, *[0] * (len(layer_splits) - len(expert_peers))]
    if len(peers_of) > len(layer_splits) or len(layer_splits) + sum(peers_of) > len(nodes):
        raise InvalidRequestError(
            f"{len(layer_splits)} stages with {peers_of} expert peers do not go on {len(nodes)} nodes"
        )
    free, stages, start = iter(nodes), [], 0
    for n_layers, n_peers in zip(layer_splits, peers_of, strict=True):
        leader, *peers = (next(free) for _ in range(1 + n_peers))
        layers = range(start, start + n_layers)
        stages.append(make_stage(model, layers, leader, peers, context_tokens * concurrency))
        start = layers.stop
    return placed(model, nodes, stages, context_tokens=context_tokens, concurrency=concurrency)
