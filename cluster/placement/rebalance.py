"""Rebalance: another placement of a served model on the nodes that are here now, and whether it is worth its bytes.

The coordinator stays, so that running answers survive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.errors import PlacementError
from cluster.placement.capacity import Links, NodeCapacity
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.prediction import predict
from cluster.placement.solver import solve
from cluster.placement.standby import with_standby

GAIN = 1.2
"""How much faster a placement must be predicted to be to replace another one without a person's word."""


@dataclass(frozen=True, slots=True)
class Rebalance:
    """A placement that may replace `former`, the predicted tokens per second of both, and what it reads.

    `read_bytes` has the bytes of weights that a node must read, by node id; nodes that read nothing are left out.
    """

    former: Placement
    placement: Placement
    former_tokens_per_s: float
    tokens_per_s: float
    read_bytes: Mapping[str, int]

    @property
    def changes(self) -> bool:
        """Whether anything would change on any node."""
        is_same = (self.placement.stages, self.placement.standby) == (self.former.stages, self.former.standby)
        return not is_same or self.has_more_room

    @property
    def has_more_room(self) -> bool:
        """Whether it has KV room for more of what was asked for."""
        return _room(self.placement) > _room(self.former)

    @property
    def has_new_standby(self) -> bool:
        """Whether it has a spare copy and the former one has none."""
        return self.former.standby is None and self.placement.standby is not None

    @property
    def is_better(self) -> bool:
        """Whether it is worth its bytes: more than GAIN faster, or with room or a spare copy that a loss had taken."""
        is_faster = self.tokens_per_s > GAIN * self.former_tokens_per_s
        return is_faster or self.has_more_room or self.has_new_standby


def rebalance(
    former: Placement,
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    *,
    context_tokens: int,
    concurrency: int,
    standby: bool = False,
) -> Rebalance:
    """Return the best placement with the same coordinator, for `concurrency` requests of `context_tokens` together.

    With `standby` it has a spare copy of a stage, where memory allows.

    Raises:
        PlacementError: it does not fit, or a node of the former placement is not among `nodes`.
    """
    order = {node_id: i for i, node_id in enumerate(former.node_ids)}
    if gone := order.keys() - {node.node_id for node in nodes}:
        raise PlacementError(f"node {min(gone)} holds a part of {former.model} and is not there: wait for the repair")
    placement = solve(
        model,
        sorted(nodes, key=lambda node: order.get(node.node_id, len(order))),  # equal nodes keep their parts
        links,
        context_tokens=context_tokens,
        concurrency=concurrency,
        chunks=former.chunks,
        coordinator=former.coordinator,
    )
    placement = replace(placement, model=former.model, content_hash=former.content_hash, recipe=former.recipe)
    if standby:
        placement = with_standby(placement, model, nodes)
    return Rebalance(
        former,
        placement,
        predict(former, model, nodes, links).together_tokens_per_s(concurrency),
        predict(placement, model, nodes, links).together_tokens_per_s(concurrency),
        read_bytes(model, former, placement),
    )


def read_bytes(model: ModelCosts, former: Placement, placement: Placement) -> dict[str, int]:
    """Return the bytes of weights that each node must read to change from one placement to another, without zeros.

    Both have the same coordinator.
    """
    before, after = _held(model, former), _held(model, placement)
    read = {
        node_id: sum(
            (model.layers[layer].fixed_bytes if expert is None else model.layers[layer].expert_bytes)
            for layer, expert in parts - before.get(node_id, set())
        )
        for node_id, parts in after.items()
    }
    return {node_id: nbytes for node_id, nbytes in read.items() if nbytes}


def _held(model: ModelCosts, placement: Placement) -> dict[str, set[tuple[int, int | None]]]:
    """Return what each node holds as (layer, expert); expert None: all else of the layer."""
    held: dict[str, set[tuple[int, int | None]]] = {node_id: set() for node_id in placement.node_ids}
    for stage in placement.stages:
        for layer in stage.layers:
            held[stage.node_id].add((layer, None))
            n_experts = model.n_experts if model.layers[layer].expert_bytes else 0
            for node_id, experts in stage.owners(layer, n_experts).items():
                held[node_id].update((layer, expert) for expert in experts)
    if (spare := placement.standby) is not None:
        for layer in spare.layers:
            n_experts = model.n_experts if model.layers[layer].expert_bytes else 0
            held[spare.node_id].update((layer, part) for part in (None, *range(n_experts)))
    return held


def _room(placement: Placement) -> int:
    return placement.context_tokens * placement.concurrency
