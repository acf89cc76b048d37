"""Chunks: how a placement cuts prompts, as the speed model finds best or as a person asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from cluster.placement.accounting import placed, spare_bytes
from cluster.placement.capacity import Links, NodeCapacity
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import Placement
from cluster.placement.prediction import predict
from mlx_moe.decoding.chunking import DEFAULT_RULE, ChunkRule

PROMPTS = (128, 512, 1024, 2048, 8192)
"""Prompts whose predicted times to the first token are made short, all alike in proportion."""

WANTED = (1, 2, 4, 8, 16)


def with_chunks(
    placement: Placement, model: ModelCosts, nodes: Sequence[NodeCapacity], links: Links, asked: ChunkRule | None
) -> Placement:
    """Return the placement with a chunk rule: the one asked for, else the best.

    On one stage a prompt is one chunk as far as memory allows: other answers go on between its layers. Several stages
    run a chunk in one piece, which others wait for, so it keeps the default's bound; how many chunks a prompt should
    have to keep them busy is what the speed model says.

    Raises:
        PlacementError: a node lacks the memory for the chunks asked for.
    """
    rule = asked or _best(placement, model, nodes, links)
    return placed(
        model,
        nodes,
        placement.stages,
        context_tokens=placement.context_tokens,
        concurrency=placement.concurrency,
        chunks=rule,
    )


def _best(placement: Placement, model: ModelCosts, nodes: Sequence[NodeCapacity], links: Links) -> ChunkRule:
    if len(placement.stages) == 1:
        room = spare_bytes(model, nodes, placement) + DEFAULT_RULE.longest * model.position_bytes
        return ChunkRule.alone(model.position_bytes, room)
    prompts = [n for n in PROMPTS if n <= placement.context_tokens]
    if not prompts:
        return DEFAULT_RULE

    def slowness(rule: ChunkRule) -> float:
        predicted = predict(replace(placement, chunks=rule), model, nodes, links, prompts=prompts)
        return sum(map(math.log, predicted.ttft_s.values()))

    return min((replace(DEFAULT_RULE, wanted=wanted) for wanted in WANTED), key=slowness)
