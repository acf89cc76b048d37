"""Chunks: chooses the rule by which a placement cuts prompts into chunks, by the speed model unless one is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.errors import PlacementError
from cluster.placement.accounting import placed, spare_bytes
from cluster.placement.capacity import Links, NodeCapacity
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.prediction import longest_delay_s, predict
from mlx_moe.decoding.chunking import DEFAULT_RULE, LONGEST_ALONE, ChunkRule
from mlx_moe.errors import InvalidRequestError

PROMPTS = (128, 512, 1024, 2048, 8192)
"""Prompt lengths in tokens; the chosen rule has the smallest geometric mean of their predicted times to first token."""

WANTED = (1, 2, 4, 8, 16)


MOST_LATENCY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Latency:
    """How many seconds the prompt of one answer may delay the next token of another one. Raises InvalidRequestError."""

    seconds: float

    def __post_init__(self) -> None:
        """Check the number."""
        if not 0 < self.seconds <= MOST_LATENCY_S:
            raise InvalidRequestError(
                f"--latency must be more than 0 and at most {MOST_LATENCY_S:g} seconds, got {self.seconds:g}"
            )


def with_chunks(
    placement: Placement,
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    asked: ChunkRule | Latency | None,
) -> Placement:
    """Return the placement with a chunk rule: `asked`, or the best one, of those that keep a latency if it is one.

    On one stage a prompt is one chunk if memory allows. On several the default's longest chunk stays the limit; the
    speed model decides into how many chunks a prompt is cut to keep the stages busy.

    Raises:
        PlacementError: a node lacks the memory for the chunks of `asked`, or the shortest chunk takes longer.
    """
    match asked:
        case ChunkRule():
            rule = asked
        case Latency():
            rule = _best(placement, model, nodes, links, _longest(placement, model, nodes, links, asked))
        case None:
            rule = _best(placement, model, nodes, links)
    return placed(
        model,
        nodes,
        placement.stages,
        context_tokens=placement.context_tokens,
        concurrency=placement.concurrency,
        chunks=rule,
    )


def _longest(
    placement: Placement, model: ModelCosts, nodes: Sequence[NodeCapacity], links: Links, latency: Latency
) -> int:
    """Return the length of the longest chunk that keeps a latency. Raises PlacementError."""
    length = LONGEST_ALONE
    while (delay_s := longest_delay_s(placement, model, nodes, links, length)) > latency.seconds:
        if length <= DEFAULT_RULE.shortest:
            raise PlacementError(
                f"{model.name} on these nodes delays other answers by up to {delay_s:.2g} s with prompts in chunks of "
                f"{length} tokens: the smallest possible is --latency {math.ceil(100 * delay_s) / 100:g}"
            )
        length //= 2
    return length


def _best(
    placement: Placement,
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    longest: int = LONGEST_ALONE,
) -> ChunkRule:
    """Return the fastest rule with chunks up to `longest`."""
    if len(placement.stages) == 1:
        room = spare_bytes(model, nodes, placement) + DEFAULT_RULE.longest * model.position_bytes
        alone = ChunkRule.alone(model.position_bytes, room)
        return replace(alone, longest=min(longest, alone.longest))
    limited = replace(DEFAULT_RULE, longest=min(longest, DEFAULT_RULE.longest))
    prompts = [n for n in PROMPTS if n <= placement.context_tokens]
    if not prompts:
        return limited

    def slowness(rule: ChunkRule) -> float:
        predicted = predict(replace(placement, chunks=rule), model, nodes, links, prompts=prompts)
        return sum(map(math.log, predicted.ttft_s.values()))

    return min((replace(limited, wanted=wanted) for wanted in WANTED), key=slowness)
