"""Repair: the placement that follows the loss of nodes: of all that fit, the one for which the fewest bytes are read.

The order of the stages stays; the first one that is left coordinates. Lost layers go to the stages beside them, to
spare nodes, or, where memory is short, move the borders of further stages. Every cut of the layers is considered. A
spare copy counts as held, so that its node takes over what it has. Of two nodes whose link is lost one gets no part, if
the model fits without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.errors import PlacementError
from cluster.placement.accounting import budget, first_layers, placed, prefix_sums, shortage
from cluster.placement.capacity import Links, NodeCapacity
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.prediction import predict
from cluster.placement.stages import make_stage
from cluster.placement.standby import kept
from cluster.placement.striping import divide
from cluster.placement.timing import Owner


@dataclass(frozen=True, slots=True)
class _Unit:
    """A stage's nodes that are left, or a node without a part; the leader first. `held` are the leader's layers."""

    nodes: tuple[NodeCapacity, ...]
    held: frozenset[int]


def repair(
    former: Placement,
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    *,
    context_tokens: int,
    concurrency: int,
) -> Placement:
    """Return the placement of the same model on the `nodes` that are left, with KV room as `solve`.

    Raises:
        PlacementError: the model does not fit.
    """
    found = [
        placement
        for units in _sequences(former, nodes)
        for linked in (_linked(units, links) if links.lost else [units])
        if (placement := _best_cut(former, model, nodes, linked, context_tokens, concurrency)) is not None
    ]
    if not found and links.lost:
        links = replace(links, lost=frozenset())
        return repair(former, model, nodes, links, context_tokens=context_tokens, concurrency=concurrency)
    if not found:
        raise PlacementError(shortage(model, nodes, context_tokens * concurrency))
    held = {stage.node_id: _held(former, stage.node_id, stage.layers) for stage in former.stages}
    best = min(
        found,
        key=lambda p: (
            sum(_read_bytes(model, s.layers, held.get(s.node_id) or _held(former, s.node_id)) for s in p.stages),
            -predict(p, model, nodes, links).tokens_per_s,
        ),
    )
    return best if former.standby is None else kept(best, former.standby, model, nodes)


def _sequences(former: Placement, nodes: Sequence[NodeCapacity]) -> Iterator[list[_Unit]]:
    """Yield sequences of units: without spare nodes, and with some in the places of stages that are lost whole."""
    left = {node.node_id: node for node in nodes}
    spare = [node for node in nodes if node.node_id not in former.running_ids]
    units: list[_Unit | None] = []
    for stage in former.stages:
        ids = (stage.node_id, *(peer.node_id for peer in stage.peers))
        members = tuple(left[node_id] for node_id in ids if node_id in left)
        held = _held(former, members[0].node_id, stage.layers) if members else frozenset()
        units.append(_Unit(members, held) if members else None)
    gaps = [i for i, unit in enumerate(units) if unit is None]
    for n_filled in range(min(len(gaps), len(spare)) + 1):
        for filled in itertools.combinations(gaps, n_filled):
            for chosen in itertools.permutations(spare, n_filled):
                fill = dict(zip(filled, chosen, strict=True))
                sequence = [
                    _Unit((fill[i],), _held(former, fill[i].node_id)) if i in fill else unit
                    for i, unit in enumerate(units)
                ]
                yield [unit for unit in sequence if unit is not None]


def _linked(units: Sequence[_Unit], links: Links) -> Iterator[Sequence[_Unit]]:
    """Yield the sequences without links that are lost: they leave out a node at one end of each, but not the first."""
    seen, rest = set[tuple[_Unit, ...]](), [tuple(units)]
    while rest:
        if (sequence := rest.pop()) in seen:
            continue
        seen.add(sequence)
        pair = next((pair for pair in _pairs(sequence) if pair in links.lost), None)
        if pair is None:
            yield sequence
        else:
            rest += [_left_out(sequence, node_id) for node_id in pair if node_id != sequence[0].nodes[0].node_id]


def _pairs(units: Sequence[_Unit]) -> Iterator[tuple[str, str]]:
    """Yield the ids at the ends of all links."""
    ids = [[node.node_id for node in unit.nodes] for unit in units]
    for i, (leader, *peers) in enumerate(ids):
        yield leader, ids[(i + 1) % len(ids)][0]
        yield from ((leader, peer) for peer in peers)


def _left_out(units: Sequence[_Unit], node_id: str) -> tuple[_Unit, ...]:
    """Return units without a node; the next of its stage leads it instead."""
    kept = [replace(unit, nodes=tuple(n for n in unit.nodes if n.node_id != node_id)) for unit in units]
    return tuple(unit for unit in kept if unit.nodes)


def _best_cut(
    former: Placement,
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    units: Sequence[_Unit],
    context_tokens: int,
    concurrency: int,
) -> Placement | None:
    """Return the cut of the layers over units that reads the fewest bytes; among equal ones the most even one."""
    n_layers, positions = len(model.layers), context_tokens * concurrency
    best: dict[int, tuple[tuple[int, int], list[range]]] = {0: ((0, 0), [])}
    for i, unit in enumerate(units):
        owners = _owners(model, unit, positions, coordinates=i == 0)
        if owners is None:
            return None
        first = first_layers(model, owners, positions, model.coordinator_bytes(positions) if i == 0 else 0)
        read = prefix_sums([_read_bytes(model, range(layer, layer + 1), unit.held) for layer in range(n_layers)])
        after: dict[int, tuple[tuple[int, int], list[range]]] = {}
        for end in range(1, n_layers + 1):
            for start in range(first[end], end):
                if start in best:
                    (nbytes, unevenness), cut = best[start]
                    cost = (nbytes + int(read[end] - read[start]), unevenness + (end - start) ** 2)
                    if end not in after or cost < after[end][0]:
                        after[end] = cost, [*cut, range(start, end)]
        best = after
    if n_layers not in best:
        return None
    try:
        stages = [
            make_stage(model, layers, unit.nodes[0], unit.nodes[1:], positions)
            for unit, layers in zip(units, best[n_layers][1], strict=True)
        ]
        made = placed(
            model, nodes, stages, context_tokens=context_tokens, concurrency=concurrency, chunks=former.chunks
        )
    except PlacementError:
        return None
    return replace(made, model=former.model, content_hash=former.content_hash, recipe=former.recipe)


def _owners(model: ModelCosts, unit: _Unit, positions: int, *, coordinates: bool) -> list[Owner] | None:
    """Return who owns how many experts of a layer, the leader first; None if a peer would own none."""
    if len(unit.nodes) == 1:
        return [Owner(unit.nodes[0], model.n_experts)]
    owned = divide(model, [budget(model, node) for node in unit.nodes], positions, coordinator=coordinates)
    return None if owned is None else [Owner(node, len(e)) for node, e in zip(unit.nodes, owned, strict=True)]


def _held(former: Placement, node_id: str, layers: range = range(0)) -> frozenset[int]:
    """Return the layers that a node holds: those that it runs, and those of which it has a spare copy."""
    standby = former.standby
    spare = standby.layers if standby is not None and standby.node_id == node_id else range(0)
    return frozenset((*layers, *spare))


def _read_bytes(model: ModelCosts, layers: range, held: frozenset[int]) -> int:
    """Return the bytes of the weights of `layers` that are not among the `held` ones."""
    return sum(model.layers[x].owned_bytes(model.n_experts, 0) for x in layers if x not in held)
