"""Solver: finds the best placement of a model on nodes.

The search is exact over every choice of nodes, their order, and every cut of the layers; with expert groups also over
every choice of peers, with experts divided by `striping`. Tests compare it with brute force.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cluster.errors import PlacementError
from cluster.placement import search
from cluster.placement.accounting import budget, first_layers, placed, prefix_sums, shortage
from cluster.placement.capacity import Link, Links, NodeCapacity, node_classes
from cluster.placement.chunks import Latency, with_chunks
from cluster.placement.costs import LayerCosts, ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.prediction import predict
from cluster.placement.search import NEVER, Integers, Run, Unit
from cluster.placement.stages import make_stage
from cluster.placement.striping import divide
from cluster.placement.timing import Owner, decode_s, head_s, hop_s, slower_way
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.errors import InvalidRequestError

Objective = Literal["one_user", "many_users"]

MAX_GROUPS = 1100
"""Number of kinds of expert groups that are tried, small ones first: enough for all groups of eight different nodes."""

LINK_RATIOS = (1.0, 1.25, 1.5, 2.0, 4.0, math.inf)
"""Factors by which links may differ and still count as equal; the first one that gives at most MAX_STATES is used.

Measurements of equal links always differ a little; without this, every node would be a class of its own.
"""


def solve(
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    *,
    context_tokens: int,
    concurrency: int,
    objective: Objective | None = None,
    expert_groups: bool | None = None,
    chunks: ChunkRule | Latency | None = None,
    coordinator: str | None = None,
) -> Placement:
    """Return the placement that answers fastest for one user (sum of all stages) or for many (slowest stage).

    Without an objective, the one of both that is predicted to be faster for `concurrency` users together.

    Every stage has KV room for `concurrency` requests of `context_tokens`; its time is taken in the middle of that
    context. For one user, stages on the same nodes are made more equal if that costs no time; for many, the sum decides
    among placements with equal slowest stages.

    Args:
        chunks: the rule by which prompts are cut; None: the one that is predicted to be fastest, a Latency: of those
            that keep it.
        coordinator: the id of the node that holds the first stage; None: any. Other equal nodes get parts in order.
        expert_groups: whether to try expert groups; None: if the model does not fit with whole layers, or if some
            leader would run a layer faster with peers than alone.

    Raises:
        PlacementError: the model does not fit. `remedies` says what would make it fit.
        InvalidRequestError: there are more than twelve nodes that differ in more than their links, or the model does
            not have this context.
    """
    problem = Problem(model, nodes, links, context_tokens, concurrency, coordinator)
    units = problem.whole_units()
    if expert_groups is not False and (expert_groups or not problem.fits(units) or problem.groups_may_win()):
        units += problem.group_units()
    objectives: Sequence[Objective] = (objective,) if objective else ("one_user", "many_users")
    found = [runs for each in objectives[:concurrency] if (runs := _best(problem, units, each)) is not None]
    if not found:
        raise PlacementError(
            f"{shortage(model, nodes, context_tokens * concurrency)}; moe-cluster plan {model.name} says what would "
            f"make it fit"
        )
    placements = [with_chunks(problem.placement(runs), model, nodes, links, chunks) for runs in found]
    if len(placements) == 1:
        return placements[0]
    return max(placements, key=lambda p: predict(p, model, nodes, links).together_tokens_per_s(concurrency))


def can_hold(
    model: ModelCosts, nodes: Sequence[NodeCapacity], *, context_tokens: int, concurrency: int, expert_groups: bool
) -> bool:
    """Whether any placement of the model on the nodes exists."""
    problem = Problem(model, nodes, Links(), context_tokens, concurrency)
    return problem.fits(problem.whole_units()) or (expert_groups and problem.fits(problem.group_units()))


def _best(problem: Problem, units: Sequence[Unit], objective: Objective) -> tuple[Run, ...] | None:
    available, hops = problem.available, problem.hops
    if objective == "many_users":
        cap = search.shortest_slowest(units, available)
        if cap is None:
            return None
        units = [unit.capped(cap) for unit in units]
    found = search.fastest(units, available, hops)
    if found is None or objective == "many_users":
        return None if found is None else found[1]
    total, runs = found
    if len({run.unit.time.tobytes() for run in runs}) == len(runs):
        return runs  # moving layers between stages would cost time
    used = [sum(run.unit.uses[c] for run in runs) for c in range(len(available))]
    cap = search.shortest_slowest(units, used)
    assert cap is not None  # these nodes hold the model, as `found` shows
    even = search.fastest([unit.capped(cap) for unit in units], used, hops)
    return even[1] if even is not None and even[0] == total else runs


@dataclass(slots=True)
class Problem:
    """A model and nodes, sorted into classes, in the form that the search needs."""

    model: ModelCosts
    nodes: Sequence[NodeCapacity]
    links: Links
    context_tokens: int
    concurrency: int
    coordinator: str | None = None
    classes: list[list[NodeCapacity]] = field(init=False)
    available: list[int] = field(init=False)
    hops: Integers = field(init=False)

    def __post_init__(self) -> None:
        if self.context_tokens < 1 or self.concurrency < 1:
            raise InvalidRequestError(
                f"a plan for {self.concurrency} users with {self.context_tokens} tokens: both are at least 1"
            )
        self.model.context.require(self.context_tokens)
        self._sort_nodes()
        kinds = range(len(self.classes))
        self.hops = np.array([[_nanoseconds(hop_s(self.model, self._link(i, j))) for j in kinds] for i in kinds])

    @property
    def positions(self) -> int:
        """Number of positions of KV cache that must fit."""
        return self.context_tokens * self.concurrency

    def _sort_nodes(self) -> None:
        """Sort nodes into classes, with links as exact as the size of the search allows."""
        for ratio in LINK_RATIOS:
            links = self.links.in_steps(ratio)
            self.classes = list(self._apart(node_classes(self.nodes, links)))
            self.available = [len(members) for members in self.classes]
            if math.prod(n + 1 for n in self.available) <= search.MAX_STATES:
                self.links = links
                return
        raise InvalidRequestError(
            f"{len(self.nodes)} nodes in {len(self.classes)} kinds are more than a plan is searched for; leave out "
            f"the slowest"
        )

    def _apart(self, classes: Sequence[list[NodeCapacity]]) -> Iterator[list[NodeCapacity]]:
        """Yield the classes, with the required coordinator in one of its own."""
        for members in classes:
            chosen = [node for node in members if node.node_id == self.coordinator]
            others = [node for node in members if node.node_id != self.coordinator]
            yield from (part for part in (chosen, others) if part)

    def _may_coordinate(self, kind: int) -> bool:
        return self.coordinator is None or self.classes[kind][0].node_id == self.coordinator

    def fits(self, units: Sequence[Unit]) -> bool:
        """Whether the units can hold the model."""
        return search.fits(units, self.available)

    def whole_units(self) -> list[Unit]:
        """Return for each class a stage of one node."""
        return [self._whole(c) for c in range(len(self.classes))]

    def group_units(self) -> list[Unit]:
        """Return the stages of a leader with expert peers, for every choice of classes."""
        units = (self._group(leader, peers) for leader, peers in self._groups())
        return [unit for unit in units if unit is not None]

    def groups_may_win(self) -> bool:
        """Whether some leader runs an MoE layer faster with one peer, or with all other nodes, than alone."""
        layer = next((layer for layer in self.model.layers if layer.expert_bytes), None)
        if layer is None:
            return False
        for leader, members in enumerate(self.classes):
            alone = decode_s(self.model, layer, [Owner(members[0], self.model.n_experts)], self._position)
            others = self._others(leader)
            kinds = [tuple(int(c == peer) for c in range(len(others))) for peer, n in enumerate(others) if n]
            for peers in dict.fromkeys([*kinds, others]):
                owned = self._divide(leader, peers, coordinator=False)
                if owned and any(peers) and decode_s(self.model, layer, owned, self._position) < alone:
                    return True
        return False

    def placement(self, runs: Sequence[Run]) -> Placement:
        """Return the placement for runs, with nodes taken from their classes in order."""
        free = [iter(members) for members in self.classes]
        stages = []
        for run in runs:
            kind = run.unit.leader
            leader = next(free[kind])
            peers = [next(free[c]) for c in _expanded([n - (c == kind) for c, n in enumerate(run.unit.uses)])]
            # Peers always have experts here: a run of dense layers is as fast without peers, which is found first
            stages.append(make_stage(self.model, range(run.start, run.stop), leader, peers, self.positions))
        return placed(self.model, self.nodes, stages, context_tokens=self.context_tokens, concurrency=self.concurrency)

    @property
    def _position(self) -> int:
        return self.context_tokens // 2

    def _link(self, sender: int, receiver: int) -> Link:
        return self.links.between(*self._pair(sender, receiver))

    def _pair(self, a: int, b: int) -> tuple[str, str]:
        """Return the ids of one node of each class; of two nodes if both classes are the same."""
        return self.classes[a][0].node_id, self.classes[b][-1].node_id

    def _others(self, leader: int) -> tuple[int, ...]:
        return tuple(n - (c == leader) for c, n in enumerate(self.available))

    def _groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Return pairs of a leader's class and the number of peers of each class, small groups first."""
        groups = [
            (leader, peers)
            for leader in range(len(self.classes))
            for peers in itertools.product(*(range(n + 1) for n in self._others(leader)))
            if any(peers)
        ]
        return sorted(groups, key=lambda group: sum(group[1]))[:MAX_GROUPS]

    def _divide(self, leader: int, peers: tuple[int, ...], *, coordinator: bool) -> list[Owner] | None:
        """Return the owners of the experts of each MoE layer, the leader first; None if a peer would own none."""
        kinds = [leader, *_expanded(peers)]
        budgets = [budget(self.model, self.classes[c][0]) for c in kinds]
        owned = divide(self.model, budgets, self.positions, coordinator=coordinator)
        if owned is None:
            return None
        links = [None, *(slower_way(self.links, *self._pair(leader, c)) for c in kinds[1:])]
        return [
            Owner(self.classes[c][0], len(experts), link) for c, experts, link in zip(kinds, owned, links, strict=True)
        ]

    def _whole(self, leader: int) -> Unit:
        owners = [Owner(self.classes[leader][0], self.model.n_experts)]
        opening = owners if self._may_coordinate(leader) else None
        return self._unit(leader, (0,) * len(self.classes), owners, opening)

    def _group(self, leader: int, peers: tuple[int, ...]) -> Unit | None:
        owners = self._divide(leader, peers, coordinator=False)
        opening = self._divide(leader, peers, coordinator=True) if self._may_coordinate(leader) else None
        return None if owners is None and opening is None else self._unit(leader, peers, owners, opening)

    def _unit(
        self, leader: int, peers: tuple[int, ...], owners: list[Owner] | None, opening: list[Owner] | None
    ) -> Unit:
        """Return a unit. `opening` are the owners if it is the first stage, which coordinates; None: it cannot be."""
        boundaries = np.arange(len(self.model.layers) + 1)
        time, start = boundaries, boundaries
        if owners is not None:
            time, start = self._times(owners), first_layers(self.model, owners, self.positions)
        first = np.full(len(boundaries), NEVER)
        if opening is not None:
            fits = first_layers(self.model, opening, self.positions, self.model.coordinator_bytes(self.positions)) == 0
            fits[0] = False
            first[fits] = self._times(opening)[fits] + _nanoseconds(head_s(self.model, opening[0].node))
        uses = tuple(n + (c == leader) for c, n in enumerate(peers))
        return Unit(leader, uses, time, start, first)

    def _times(self, owners: Sequence[Owner]) -> Integers:
        """Return the summed time in nanoseconds of all layers before each boundary."""
        known: dict[LayerCosts, int] = {}
        for layer in self.model.layers:
            if layer not in known:
                known[layer] = _nanoseconds(decode_s(self.model, layer, owners, self._position))
        return prefix_sums([known[layer] for layer in self.model.layers])


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _expanded(counts: Sequence[int]) -> list[int]:
    """Return each class c `counts[c]` times."""
    return [c for c, n in enumerate(counts) for _ in range(n)]
