"""Remedies: a placement where one is possible at all, and what would make the model fit where none is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.errors import PlacementError
from cluster.placement.accounting import budget, loads, shortage
from cluster.placement.capacity import Links, NodeCapacity, node_classes
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.solver import Objective, can_hold, solve

FEWER_BITS = (8, 6, 5, 4, 3, 2)
SCALE_BITS = 0.5
"""Bits a weight that scales and biases take in affine groups of 64."""

MOST_NODES_MORE = 16
CONTEXT_STEP = 256
MEMORY_STEP = 100_000_000


@dataclass(frozen=True, slots=True)
class Fit:
    """A placement, the nodes as it takes them, and those whose GPU limit has to be raised for it."""

    placement: Placement
    nodes: tuple[NodeCapacity, ...]
    raised: tuple[NodeCapacity, ...]


def fit(
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    *,
    context_tokens: int,
    concurrency: int,
    objective: Objective = "one_user",
) -> Fit:
    """Solve for the nodes as they are, else with GPU limits raised, and only then with layers split by experts.

    A higher limit costs its owner one command, so for one user it is asked of as few nodes as will do, those first
    that gain most. For many users all may be raised: the slowest stage gets shorter (for DeepSeek-V3 on eight 64 GB
    minis, 79 tokens/s together against 62). Expert groups cost an exchange in every layer of every token.

    Raises:
        PlacementError: nothing fits; says what would.
    """
    higher = [node.raised() for node in nodes]
    gaining = sorted(range(len(nodes)), key=lambda i: (nodes[i].memory_bytes - higher[i].memory_bytes, -i))
    counts = range(len(nodes) + 1) if objective == "one_user" else (0, len(nodes))
    some_higher = [[higher[i] if i in gaining[:count] else node for i, node in enumerate(nodes)] for count in counts]
    for offered, groups in [*((some, False) for some in some_higher), (nodes, True), (higher, True)]:
        if can_hold(model, offered, context_tokens=context_tokens, concurrency=concurrency, expert_groups=groups):
            placement = solve(
                model, offered, links, context_tokens=context_tokens, concurrency=concurrency, objective=objective
            )
            return Fit(placement, tuple(offered), _raised(model, placement, nodes))
    cures = remedies(model, higher, context_tokens=context_tokens, concurrency=concurrency)
    raise PlacementError(
        f"{shortage(model, higher, context_tokens * concurrency)}. "
        f"It would fit with {', or '.join(cures) or 'a smaller model'}"
    )


def remedies(model: ModelCosts, nodes: Sequence[NodeCapacity], *, context_tokens: int, concurrency: int) -> list[str]:
    """Return what would make the model fit with its layers whole, each alone and with numbers, the cheapest first."""

    def holds(
        model: ModelCosts = model,
        nodes: Sequence[NodeCapacity] = nodes,
        context_tokens: int = context_tokens,
        concurrency: int = concurrency,
    ) -> bool:
        return can_hold(model, nodes, context_tokens=context_tokens, concurrency=concurrency, expert_groups=False)

    cures: list[str] = []
    higher = [node.raised() for node in nodes]
    if higher != list(nodes) and holds(nodes=higher):
        cures.append(f"a higher GPU limit: {', '.join(raise_command(n) for n in dict.fromkeys(map(_unnamed, higher)))}")
    steps = _most(context_tokens // CONTEXT_STEP, lambda n: holds(context_tokens=n * CONTEXT_STEP))
    if steps:
        cures.append(f"a context of {steps * CONTEXT_STEP} tokens instead of {context_tokens}")
    users = _most(concurrency - 1, lambda n: holds(concurrency=n))
    if users:
        cures.append(f"{users} users at once instead of {concurrency}")
    cures += _more_memory(nodes, holds)
    largest = max(nodes, key=lambda node: node.memory_bytes)
    for more in range(1, MOST_NODES_MORE + 1):
        copies = [replace(largest, node_id=f"{largest.node_id}+{i}") for i in range(more)]
        if holds(nodes=[*nodes, *copies]):
            cures.append(f"{more} more node{'s' * (more > 1)} with {_gigabytes(largest.memory_bytes)} for the GPU")
            break
    for bits in FEWER_BITS:
        if bits + SCALE_BITS < model.bits and holds(model=model.at_bits(bits + SCALE_BITS)):
            cures.append(f"a conversion to {bits} bits (now {model.bits:.1f} with scales)")
            break
    return cures


def raise_command(node: NodeCapacity) -> str:
    """Return what its owner types to raise a Mac's GPU limit; it holds until the next start."""
    return f"sudo sysctl iogpu.wired_limit_mb={node.raised().memory_bytes >> 20}"


def _more_memory(nodes: Sequence[NodeCapacity], holds: Callable[..., bool]) -> list[str]:
    """Return on which node the least more memory would do, if twice what it has would on any."""
    best: tuple[int, str] | None = None
    for members in node_classes(nodes, Links()):
        node = members[0]
        most = (best[0] - 1) if best else node.memory_bytes // MEMORY_STEP

        def holds_without(spared: int, node: NodeCapacity = node, most: int = most) -> bool:
            larger = replace(node, memory_bytes=node.memory_bytes + (most - spared) * MEMORY_STEP)
            return holds(nodes=[larger if other is node else other for other in nodes])

        if most > 0 and holds_without(0):
            best = most - _most(most, holds_without), node.name
    return [] if best is None else [f"{_gigabytes(best[0] * MEMORY_STEP)} more for the GPU on {best[1]}"]


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to `limit` that holds, where smaller ones then do too; 0 if none does."""
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


def _unnamed(node: NodeCapacity) -> NodeCapacity:
    return replace(node, node_id="", name="")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
