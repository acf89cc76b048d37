"""Solver: the best placement of a model on nodes.

Exact for what it searches: every choice of nodes, their order, and every cut of the layers; with expert groups also
every choice of peers, the experts divided by the rule of `striping`. Tests hold it to brute force.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cluster.errors import PlacementError
from cluster.placement import search
from cluster.placement.accounting import budget, placed, shortage
from cluster.placement.capacity import Link, Links, NodeCapacity, node_classes
from cluster.placement.chunks import with_chunks
from cluster.placement.costs import LayerCosts, ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.search import NEVER, Integers, Run, Unit
from cluster.placement.stages import make_stage
from cluster.placement.striping import divide
from cluster.placement.timing import Owner, decode_s, head_s, hop_s, slower_way
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.errors import InvalidRequestError

Objective = Literal["one_user", "many_users"]

MAX_GROUPS = 1100
"""Kinds of expert groups that are tried, small ones first: all that eight nodes can make, were they all different."""

LINK_RATIOS = (1.0, 1.25, 1.5, 2.0, 4.0, math.inf)
"""By how much links may differ and still count as alike: the first that leaves few enough kinds of nodes to search.

No two measurements of equal links agree, and each one of its own would make each node a kind of its own.
"""


def solve(
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    *,
    context_tokens: int,
    concurrency: int,
    objective: Objective = "one_user",
    expert_groups: bool | None = None,
    chunks: ChunkRule | None = None,
) -> Placement:
    """Return the placement that answers fastest: one user (the sum of all stages) or many (the slowest stage).

    Every stage has KV room for `concurrency` requests of `context_tokens`. Stages are timed in the middle of that
    context. For one user, stages are evened out over the same nodes where that costs nothing; for many, the sum decides
    among placements with equally slow slowest stages.
    Prompts are cut by `chunks`; None: as is predicted to be fastest.
    Expert groups are tried if `expert_groups`; if it is None, when no node could hold its layers whole, and when a
    leader would run a layer faster with peers than alone.

    Raises:
        PlacementError: the model does not fit. `remedies` says what would make it fit.
        InvalidRequestError: more than twelve nodes that all differ, not by their links, or a context that the
            model does not have.
    """
    problem = Problem(model, nodes, links, context_tokens, concurrency)
    units = problem.whole_units()
    if expert_groups is not False and (expert_groups or not problem.fits(units) or problem.groups_may_win()):
        units += problem.group_units()
    runs = _best(problem, units, objective)
    if runs is None:
        raise PlacementError(
            f"{shortage(model, nodes, context_tokens * concurrency)}; moe-cluster plan {model.name} says what would "
            f"make it fit"
        )
    return with_chunks(problem.placement(runs), model, nodes, links, chunks)


def can_hold(
    model: ModelCosts, nodes: Sequence[NodeCapacity], *, context_tokens: int, concurrency: int, expert_groups: bool
) -> bool:
    """Whether the nodes have any placement for the model."""
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
        return runs  # no two stages would exchange layers for nothing
    used = [sum(run.unit.uses[c] for run in runs) for c in range(len(available))]
    cap = search.shortest_slowest(units, used)
    assert cap is not None  # these nodes were just seen to hold the model
    even = search.fastest([unit.capped(cap) for unit in units], used, hops)
    return even[1] if even is not None and even[0] == total else runs


@dataclass(slots=True)
class Problem:
    """A model, nodes in classes, and what the search needs to know of them."""

    model: ModelCosts
    nodes: Sequence[NodeCapacity]
    links: Links
    context_tokens: int
    concurrency: int
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
        """Positions of KV cache that must fit."""
        return self.context_tokens * self.concurrency

    def _sort_nodes(self) -> None:
        """Put nodes that are alike into classes, by links that are as exact as a search allows."""
        for ratio in LINK_RATIOS:
            links = self.links.in_steps(ratio)
            self.classes = node_classes(self.nodes, links)
            self.available = [len(members) for members in self.classes]
            if math.prod(n + 1 for n in self.available) <= search.MAX_STATES:
                self.links = links
                return
        raise InvalidRequestError(
            f"{len(self.nodes)} nodes in {len(self.classes)} kinds are more than a plan is searched for; leave out "
            f"the slowest"
        )

    def fits(self, units: Sequence[Unit]) -> bool:
        """Whether the units can hold the model."""
        return search.fits(units, self.available)

    def whole_units(self) -> list[Unit]:
        """Return each class as a stage of one node."""
        return [self._whole(c) for c in range(len(self.classes))]

    def group_units(self) -> list[Unit]:
        """Return a leader with expert peers, for every choice of classes."""
        units = (self._group(leader, peers) for leader, peers in self._groups())
        return [unit for unit in units if unit is not None]

    def groups_may_win(self) -> bool:
        """Whether some leader would run an MoE layer faster with one peer, or with all other nodes, than alone."""
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
        """Return the placement that runs stand for, with nodes of their classes taken in order."""
        free = [iter(members) for members in self.classes]
        stages = []
        for run in runs:
            kind = run.unit.leader
            leader = next(free[kind])
            peers = [next(free[c]) for c in _expanded([n - (c == kind) for c, n in enumerate(run.unit.uses)])]
            # Peers always have experts here: without them a run of dense layers is as fast, and an earlier state
            stages.append(make_stage(self.model, range(run.start, run.stop), leader, peers, self.positions))
        return placed(self.model, self.nodes, stages, context_tokens=self.context_tokens, concurrency=self.concurrency)

    @property
    def _position(self) -> int:
        return self.context_tokens // 2

    def _link(self, sender: int, receiver: int) -> Link:
        return self.links.between(*self._pair(sender, receiver))

    def _pair(self, a: int, b: int) -> tuple[str, str]:
        """Return the ids of members of two classes; of two members if the class is the same."""
        return self.classes[a][0].node_id, self.classes[b][-1].node_id

    def _others(self, leader: int) -> tuple[int, ...]:
        return tuple(n - (c == leader) for c, n in enumerate(self.available))

    def _groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Return leaders and how many peers of each class, small groups first."""
        groups = [
            (leader, peers)
            for leader in range(len(self.classes))
            for peers in itertools.product(*(range(n + 1) for n in self._others(leader)))
            if any(peers)
        ]
        return sorted(groups, key=lambda group: sum(group[1]))[:MAX_GROUPS]

    def _divide(self, leader: int, peers: tuple[int, ...], *, coordinator: bool) -> list[Owner] | None:
        """Return who owns how many experts of each MoE layer; None if a peer would own none."""
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
        return self._unit(leader, (0,) * len(self.classes), owners, owners)

    def _group(self, leader: int, peers: tuple[int, ...]) -> Unit | None:
        owners = self._divide(leader, peers, coordinator=False)
        opening = self._divide(leader, peers, coordinator=True)
        return None if owners is None and opening is None else self._unit(leader, peers, owners, opening)

    def _unit(
        self, leader: int, peers: tuple[int, ...], owners: list[Owner] | None, opening: list[Owner] | None
    ) -> Unit:
        """Return a unit; `opening` owns the experts where it is the first stage, which coordinates; None: it cannot."""
        boundaries = np.arange(len(self.model.layers) + 1)
        time, start = boundaries, boundaries
        if owners is not None:
            time, start = self._times(owners), self._starts(owners, 0)
        first = np.full(len(boundaries), NEVER)
        if opening is not None:
            fits = self._starts(opening, self.model.coordinator_bytes(self.positions)) == 0
            fits[0] = False
            first[fits] = self._times(opening)[fits] + _nanoseconds(head_s(self.model, opening[0].node))
        uses = tuple(n + (c == leader) for c, n in enumerate(peers))
        return Unit(leader, uses, time, start, first)

    def _times(self, owners: Sequence[Owner]) -> Integers:
        """Return the time of all layers before each boundary."""
        known: dict[LayerCosts, int] = {}
        for layer in self.model.layers:
            if layer not in known:
                known[layer] = _nanoseconds(decode_s(self.model, layer, owners, self._position))
        return _prefix_sums([known[layer] for layer in self.model.layers])

    def _starts(self, owners: Sequence[Owner], reserved: int) -> Integers:
        """Return the first layer from which on all before each boundary fit, with bytes reserved on the leader."""
        start = np.zeros(len(self.model.layers) + 1, dtype=np.int64)
        for i, owner in enumerate(owners):
            held = _prefix_sums(
                [
                    layer.owned_bytes(owner.n_experts, self.positions)
                    if i == 0
                    else owner.n_experts * layer.expert_bytes
                    for layer in self.model.layers
                ]
            )
            free = budget(self.model, owner.node) - (reserved if i == 0 else 0)
            start = np.maximum(start, np.searchsorted(held, held - free) if free >= 0 else np.arange(len(held)))
        return start


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _prefix_sums(values: Sequence[int]) -> Integers:
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def _expanded(counts: Sequence[int]) -> list[int]:
    """Return each class as often as it is counted."""
    return [c for c, n in enumerate(counts) for _ in range(n)]
