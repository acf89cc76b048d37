"""Standby: a spare copy of the stage that takes longest to load again, on a node that has room to run it too.

Such a node is one without a part, or leads the stage before or after: a repair then reads nothing. Stages whose experts
are divided get none, nor does the coordinator's: its node holds embedding and lm_head besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cluster.placement.accounting import Load, budget, loads
from cluster.placement.capacity import NodeCapacity
from cluster.placement.costs import LONGEST_CHUNK, ModelCosts
from cluster.placement.placement import Placement, Standby


def with_standby(placement: Placement, model: ModelCosts, nodes: Sequence[NodeCapacity]) -> Placement:
    """Return a placement with a spare copy of the largest stage for which a node has room; unchanged if none has."""
    held = loads(model, placement.stages)
    stages = [i for i, stage in enumerate(placement.stages) if i and not stage.peers]
    for i in sorted(stages, key=lambda i: -held[placement.stages[i].node_id].weights_bytes):
        for node_id in _candidates(placement, i, nodes):
            spared = kept(placement, Standby(node_id, placement.stages[i].layers), model, nodes)
            if spared.standby is not None:
                return spared
    return placement


def kept(placement: Placement, standby: Standby, model: ModelCosts, nodes: Sequence[NodeCapacity]) -> Placement:
    """Return a placement with a given spare copy if that is of one of its stages and there is room, else without one.

    The node has room for the spare weights, and for the KV caches of both that the requests need if it runs both.
    """
    without = replace(placement, standby=None)
    spared = [i for i, s in enumerate(placement.stages) if i and s.layers == standby.layers and not s.peers]
    node = next((node for node in nodes if node.node_id == standby.node_id), None)
    if not spared or node is None or node.node_id not in _candidates(placement, spared[0], nodes):
        return without
    held = loads(model, placement.stages)
    own, spare = held.get(node.node_id, Load(0, 0)), held[placement.stages[spared[0]].node_id]
    longer = max(0, placement.chunks.longest - LONGEST_CHUNK) * model.position_bytes
    free = budget(model, node) - longer - own.weights_bytes - spare.weights_bytes
    if free < placement.context_tokens * placement.concurrency * (own.kv_bytes + spare.kv_bytes):
        return without
    room = placement.kv_positions if not own.kv_bytes else min(placement.kv_positions, free // own.kv_bytes)
    nbytes = {**placement.node_bytes, node.node_id: own.weights_bytes + spare.weights_bytes}
    return replace(placement, standby=standby, kv_positions=room, node_bytes=nbytes)


def _candidates(placement: Placement, index: int, nodes: Sequence[NodeCapacity]) -> Iterator[str]:
    """Yield the nodes that may have a stage's spare copy: those without a part, the fastest first, then neighbours."""
    running = placement.running_ids
    for node in sorted(nodes, key=lambda node: -node.bandwidth_gbps):
        if node.node_id not in running:
            yield node.node_id
    for neighbour in placement.stages[max(0, index - 1) : index + 2]:
        if neighbour is not placement.stages[index] and not neighbour.peers:
            yield neighbour.node_id
