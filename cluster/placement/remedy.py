"""Remedies: finds a placement with raised GPU limits or expert groups if needed, or what would make the model fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.errors import PlacementError
from cluster.placement.accounting import budget, loads, shortage
from cluster.placement.capacity import Links, NodeCapacity, size_text
from cluster.placement.chips import MAC_GIGABYTES, SYSTEM_BYTES
from cluster.placement.chunks import Latency
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.solver import Objective, Problem, can_hold, solve
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.errors import InvalidRequestError

FEWER_BITS = (8, 6, 5, 4, 3, 2)
SCALE_BITS = 0.5
"""Bits per weight of scales and biases in affine groups of 64."""

MOST_NODES_MORE = 16
CONTEXT_STEP = 256


@dataclass(frozen=True, slots=True)
class Fit:
    """A placement, the nodes as it uses them, and those whose GPU limit must be raised for it."""

    placement: Placement
    nodes: tuple[NodeCapacity, ...]
    raised: tuple[NodeCapacity, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What should fit: a model, nodes, context and number of requests. A remedy changes one of them."""

    model: ModelCosts
    nodes: Sequence[NodeCapacity]
    context_tokens: int
    concurrency: int

    def holds(self, *, expert_groups: bool = False) -> bool:
        """Whether a placement exists; False, without a search, if there are too many kinds of nodes."""
        try:
            return can_hold(
                self.model,
                self.nodes,
                context_tokens=self.context_tokens,
                concurrency=self.concurrency,
                expert_groups=expert_groups,
            )
        except InvalidRequestError:
            return False


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change that makes a model fit, as text, and the changed wish."""

    text: str
    wish: Wish


AtBits = Callable[[int], ModelCosts]
"""Returns the costs of the same model converted to a number of bits."""


def fit(
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    *,
    context_tokens: int,
    concurrency: int,
    objective: Objective | None = None,
    at_bits: AtBits | None = None,
    chunks: ChunkRule | Latency | None = None,
) -> Fit:
    """Solve for the nodes as they are; if that fails with raised GPU limits, and last with layers split by experts.

    Raising a limit takes the owner one command, so as few nodes as possible are raised, those first that gain most. For
    the objective of many users all are raised together: the slowest stage becomes shorter (DeepSeek-V3 on eight 64 GB
    minis: 79 tokens/s together instead of 62). Expert groups cost an exchange in every layer of every token.

    Raises:
        PlacementError: nothing fits; the message says what would.
        InvalidRequestError: as `solve`.
    """
    Problem(model, nodes, links, context_tokens, concurrency)  # raises for requests that cannot be planned
    wish = Wish(model, nodes, context_tokens, concurrency)
    higher = [node.raised() for node in nodes]
    gaining = sorted(range(len(nodes)), key=lambda i: (nodes[i].memory_bytes - higher[i].memory_bytes, -i))
    counts = (0, len(nodes)) if objective == "many_users" else range(len(nodes) + 1)
    some_higher = [[higher[i] if i in gaining[:count] else node for i, node in enumerate(nodes)] for count in counts]
    for offered, groups in [*((some, False) for some in some_higher), (nodes, True), (higher, True)]:
        if replace(wish, nodes=offered).holds(expert_groups=groups):
            placement = solve(
                model,
                offered,
                links,
                context_tokens=context_tokens,
                concurrency=concurrency,
                objective=objective,
                chunks=chunks,
            )
            return Fit(placement, tuple(offered), _raised(model, placement, nodes))
    cures = [remedy.text for remedy in remedies(replace(wish, nodes=higher), at_bits or _estimate(model))]
    subject = "It" if higher == list(nodes) else "With the GPU limits raised, which is counted here, it"
    raise PlacementError(
        f"{shortage(model, higher, context_tokens * concurrency)}. "
        f"{subject} would fit with {', or '.join(cures) or 'a smaller model'}"
    )


def remedies(wish: Wish, at_bits: AtBits) -> list[Remedy]:
    """Return the single changes that make the model fit with whole layers, with numbers, the cheapest first.

    Only changes that are possible: fewer tokens, users or bits, memory that an owner keeps back, and more machines.
    """
    kinds = (_raised_limits, _shorter_context, _fewer_users, _withheld_memory, _more_nodes, _larger_node)
    found = [remedy for kind in kinds for remedy in kind(wish)]
    return [*found, *_fewer_bits(wish, at_bits)]


def raise_command(node: NodeCapacity) -> str:
    """Return the command that raises a Mac's GPU limit until its next start."""
    return f"sudo sysctl iogpu.wired_limit_mb={node.raised().memory_bytes >> 20}"


def _raised_limits(wish: Wish) -> Iterator[Remedy]:
    higher = replace(wish, nodes=[node.raised() for node in wish.nodes])
    if list(higher.nodes) != list(wish.nodes) and higher.holds():
        commands = dict.fromkeys(
            raise_command(after)
            for before, after in zip(wish.nodes, higher.nodes, strict=True)
            if before.memory_bytes < after.memory_bytes
        )
        yield Remedy(f"a higher GPU limit: {', '.join(commands)}", higher)


def _shorter_context(wish: Wish) -> Iterator[Remedy]:
    def shorter(steps: int) -> Wish:
        return replace(wish, context_tokens=steps * CONTEXT_STEP)

    if steps := _most(wish.context_tokens // CONTEXT_STEP, lambda n: shorter(n).holds()):
        text = f"a context of {steps * CONTEXT_STEP} tokens instead of {wish.context_tokens} (--context)"
        yield Remedy(text, shorter(steps))


def _fewer_users(wish: Wish) -> Iterator[Remedy]:
    if users := _most(wish.concurrency - 1, lambda n: replace(wish, concurrency=n).holds()):
        text = f"{users} user{'s' * (users > 1)} at once instead of {wish.concurrency} (--users)"
        yield Remedy(text, replace(wish, concurrency=users))


def _withheld_memory(wish: Wish) -> Iterator[Remedy]:
    generous = replace(wish, nodes=[node.generous() for node in wish.nodes])
    keeping = [node.name for node in wish.nodes if node.withheld_bytes]
    if keeping and generous.holds():
        yield Remedy(f"all the memory of {', '.join(keeping)} (up without --memory)", generous)


def _more_nodes(wish: Wish) -> Iterator[Remedy]:
    largest = max(wish.nodes, key=lambda node: node.memory_bytes)
    for more in range(1, MOST_NODES_MORE + 1):
        copies = [replace(largest, node_id=f"{largest.node_id}+{i}") for i in range(more)]
        larger = replace(wish, nodes=[*wish.nodes, *copies])
        if larger.holds():
            size = size_text(largest.memory_bytes)
            yield Remedy(f"{more} more node{'s' * (more > 1)} like {largest.name} ({size} for the model)", larger)
            return


def _larger_node(wish: Wish) -> Iterator[Remedy]:
    """Yield the smallest Mac, larger than all nodes, with which the model would fit."""
    macs = [node for node in wish.nodes if node.is_mac]
    if not macs:
        return  # a Mac computes in another dtype than these nodes
    largest = max(macs, key=lambda node: node.memory_bytes)
    for gigabytes in MAC_GIGABYTES:
        memory_bytes = (gigabytes << 30) - SYSTEM_BYTES
        mac = replace(largest, node_id=f"{largest.node_id}+", memory_bytes=memory_bytes)
        larger = replace(wish, nodes=[*wish.nodes, mac])
        if memory_bytes > largest.memory_bytes and larger.holds():
            yield Remedy(f"1 more Mac with {gigabytes} GB of memory and its GPU limit raised", larger)
            return


def _fewer_bits(wish: Wish, at_bits: AtBits) -> Iterator[Remedy]:
    for bits in FEWER_BITS:
        if bits + SCALE_BITS < wish.model.bits:
            smaller = replace(wish, model=at_bits(bits))
            if smaller.holds():
                yield Remedy(
                    f"a conversion of the original to {bits} bits ({size_text(smaller.model.stored_bytes)} on each "
                    f"node's disk; now {wish.model.bits:.1f} bits with scales, {size_text(wish.model.stored_bytes)})",
                    smaller,
                )
                return


def _estimate(model: ModelCosts) -> AtBits:
    return lambda bits: model.at_bits(bits + SCALE_BITS)


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to `limit` for which `holds` is true, 0 if there is none.

    If it is true for a number, it must be true for all smaller ones.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _raised(model: ModelCosts, placement: Placement, nodes: Sequence[NodeCapacity]) -> tuple[NodeCapacity, ...]:
    held = loads(model, placement.stages)
    positions = placement.context_tokens * placement.concurrency
    return tuple(
        node
        for node in nodes
        if node.node_id in held
        and held[node.node_id].weights_bytes + positions * held[node.node_id].kv_bytes > budget(model, node)
    )
