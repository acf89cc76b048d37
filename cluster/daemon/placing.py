"""Placing: makes a placement on the present nodes, from their measurements of themselves and their links."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cluster.cost_reader import checkpoint_costs
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, PlacementError
from cluster.placement import Latency, Links, ModelCosts, NodeCapacity, Placement, Rebalance, rebalance, repair, solve
from cluster.placement.nodes import capacity, links_from
from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import Recipe
from mlx_moe.config import ModelConfig
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.decoding.draft import wants_mtp

Wish = TypeVar("Wish")
Found = TypeVar("Found")

CONTEXTS = (32768, 8192, 2048)
"""Positions of KV cache for one request, tried in this order if the request does not say a number."""


def capacities(state: NodeState) -> list[NodeCapacity]:
    """Return the capacities of this node and of the present ones."""
    infos = [state.own, *(member.info for member in state.present.values())]
    return [capacity(info, state.name(info.node_id)) for info in infos]


def links(state: NodeState) -> Links:
    """Return the links between present nodes, as they have measured them."""
    own = state.own.node_id
    return links_from(own, {node_id: state.links_of(node_id) for node_id in (own, *state.present)})


def float_bytes(state: NodeState) -> int:
    """Return the bytes of the floats in which all nodes compute. Raises ClusterError if these differ."""
    dtypes = {state.own.node_id: state.own.hardware.dtype}
    dtypes |= {node_id: member.info.hardware.dtype for node_id, member in state.present.items()}
    if len(set(dtypes.values())) > 1:
        said = ", ".join(f"{state.name(node_id)} in {dtype}" for node_id, dtype in dtypes.items())
        raise ClusterError(f"the nodes compute in different numbers ({said}), so one cannot go on where another ended")
    return 4 if state.own.hardware.dtype == "float32" else 2


def costs(model: str, directory: Path, float_bytes: int, recipe: Recipe, draft: str) -> ModelCosts:
    """Return what a model's copy in a directory needs if it is quantized by `recipe`. Raises CheckpointError."""
    with Checkpoint.open(directory) as checkpoint:
        config = families.config_of(checkpoint)
        found = checkpoint_costs(model, checkpoint, config, float_bytes=float_bytes, recipe=recipe)
    return found if wants_mtp(draft) else replace(found, mtp=None)


def request_tokens(config: ModelConfig, placement: Placement) -> int:
    """Return the most tokens of a request."""
    return min(max(config.context.tokens, placement.context_tokens), placement.kv_positions)


def place(
    model: ModelCosts,
    nodes: list[NodeCapacity],
    between: Links,
    context_tokens: int,
    concurrency: int,
    chunks: ChunkRule | Latency | None = None,
) -> Placement:
    """Return the placement that answers one user fastest. Raises PlacementError if none fits."""

    def solved(tokens: int) -> Placement:
        return solve(model, nodes, between, context_tokens=tokens, concurrency=concurrency, chunks=chunks)

    return _first_that_fits(solved, _contexts(model, context_tokens))


def rebalanced(
    former: Placement,
    model: ModelCosts,
    nodes: list[NodeCapacity],
    between: Links,
    context_tokens: int,
    concurrency: int,
    *,
    standby: bool = False,
) -> Rebalance:
    """Return what `place` would return today for what was asked for then, with the coordinator where it is.

    Raises:
        PlacementError: nothing fits, or a node of the former placement is not there.
    """

    def found(tokens: int) -> Rebalance:
        return rebalance(former, model, nodes, between, context_tokens=tokens, concurrency=concurrency, standby=standby)

    return _first_that_fits(found, _contexts(model, context_tokens))


def repaired(former: Placement, model: ModelCosts, nodes: list[NodeCapacity], between: Links) -> Placement:
    """Return the placement after nodes were lost: `nodes` are left. Raises PlacementError if the model does not fit.

    The KV room may be smaller, if the model does not fit otherwise.
    """
    rooms = [(former.context_tokens, former.concurrency), (former.context_tokens, 1)]
    rooms += [(tokens, 1) for tokens in CONTEXTS if tokens < former.context_tokens]

    def found(room: tuple[int, int]) -> Placement:
        return repair(former, model, nodes, between, context_tokens=room[0], concurrency=room[1])

    return _first_that_fits(found, rooms)


def _contexts(model: ModelCosts, asked: int) -> list[int]:
    return [asked] if asked else sorted({min(c, model.context.tokens) for c in CONTEXTS}, reverse=True)


def _first_that_fits(attempt: Callable[[Wish], Found], wishes: Sequence[Wish]) -> Found:
    """Return the result for the first wish that fits. Raises the PlacementError of the last one."""
    for wish in wishes[:-1]:
        with suppress(PlacementError):
            return attempt(wish)
    return attempt(wishes[-1])
