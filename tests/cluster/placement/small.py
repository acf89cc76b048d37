"""Small models and clusters for the planner, and all placements there are of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

from cluster.errors import PlacementError
from cluster.placement import Link, Links, ModelCosts, NodeCapacity, Placement, placed
from cluster.placement.costs import LayerCosts
from cluster.placement.stages import make_stage
from mlx_moe.context import Context
from mlx_moe.layers.cache_costs import CacheCosts
from mlx_moe.rope_config import RopeConfig

CONTEXT_TOKENS = 100
CONCURRENCY = 2
POSITIONS = CONTEXT_TOKENS * CONCURRENCY


def layer(fixed_bytes: int, expert_bytes: int, kv_bytes: int) -> LayerCosts:
    cache = CacheCosts(bytes_per_position=kv_bytes)
    return LayerCosts(fixed_bytes, 2 * fixed_bytes, expert_bytes, 2 * expert_bytes, 1000, cache)


def model(layers: Sequence[LayerCosts], n_experts: int = 8, mtp: LayerCosts | None = None) -> ModelCosts:
    return ModelCosts(
        name="small",
        parameters=1_000_000,
        active_parameters=100_000,
        float_bytes=2,
        hidden_size=1000,
        context=Context.of(1000, RopeConfig(64, 10_000.0, interleaved=False)),
        latent_attention=False,
        n_experts=n_experts,
        experts_per_token=2,
        layers=tuple(layers),
        embedding_bytes=3_000_000,
        head_bytes=2_000_000,
        norm_bytes=2_000,
        mtp=mtp,
        temporary_bytes=1_000_000,
        position_bytes=1_000,
    )


def node(index: int, memory_bytes: int, bandwidth_gbps: float = 1.0) -> NodeCapacity:
    return NodeCapacity(f"n{index}", f"mac-{index}", memory_bytes, bandwidth_gbps, 1.0, 50, 100, 150)


megabytes = st.integers(5, 40).map(lambda count: count * 1_000_000)
some_layers = st.builds(layer, megabytes, st.sampled_from([0, 1_000_000, 6_000_000]), st.sampled_from([1000, 30_000]))


def models(max_layers: int) -> st.SearchStrategy[ModelCosts]:
    return st.builds(
        model, st.lists(some_layers, min_size=max_layers // 2, max_size=max_layers), st.just(8), st.none() | some_layers
    )


@st.composite
def clusters(draw: st.DrawFn, max_nodes: int) -> tuple[list[NodeCapacity], Links]:
    """Nodes of few kinds, so that some are alike, and links of which some are measured."""
    memory = st.sampled_from([60_000_000, 90_000_000, 120_000_000, 200_000_000])
    kinds = draw(st.lists(st.tuples(memory, st.sampled_from([1.0, 1.3, 4.0])), min_size=1, max_size=max_nodes))
    picked = draw(st.lists(st.sampled_from(kinds), min_size=max_nodes // 2, max_size=max_nodes))
    nodes = [node(i, *kind) for i, kind in enumerate(picked)]
    pairs = list(itertools.permutations([n.node_id for n in nodes], 2))
    measured = st.sampled_from([Link(1e-3), Link(30e-3, 1e7), Link(1e-5)])
    default = draw(st.sampled_from([Link(), Link(1e-6, 1e11)]))  # over the second an exchange is faster than reading
    return nodes, Links(default, draw(st.dictionaries(st.sampled_from(pairs), measured)) if pairs else {})


def all_placements(costs: ModelCosts, nodes: Sequence[NodeCapacity], *, groups: bool) -> Iterator[Placement]:
    """Every placement that fits: each order of each choice of nodes, each cut, with groups each choice of peers."""
    for shape in _shapes(list(nodes), 0, len(costs.layers), groups):
        try:
            stages = [make_stage(costs, layers, leader, peers, POSITIONS) for layers, leader, peers in shape]
            yield placed(costs, nodes, stages, context_tokens=CONTEXT_TOKENS, concurrency=CONCURRENCY)
        except PlacementError:
            continue


Shape = list[tuple[range, NodeCapacity, tuple[NodeCapacity, ...]]]


def _shapes(free: list[NodeCapacity], start: int, n_layers: int, groups: bool) -> Iterator[Shape]:
    if start == n_layers:
        yield []
        return
    for leader in free:
        others = [n for n in free if n is not leader]
        for n_peers in range(len(others) + 1 if groups else 1):
            for peers in itertools.combinations(others, n_peers):
                rest = [n for n in others if n not in peers]
                for stop in range(start + 1, n_layers + 1):
                    for later in _shapes(rest, stop, n_layers, groups):
                        yield [(range(start, stop), leader, peers), *later]
