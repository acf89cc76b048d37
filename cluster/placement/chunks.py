"""Chunks: chooses the rule by which a placement cuts prompts into chunks, by the speed model unless one is given."""

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
"""Prompt lengths in tokens; the chosen rule has the smallest geometric mean of their predicted times to first token."""

WANTED = (1, 2, 4, 8, 16)


def with_chunks(
    placement: Placement, model: ModelCosts, nodes: Sequence[NodeCapacity], links: Links, asked: ChunkRule | None
) -> Placement:
    """Return the placement with a chunk rule: `asked`, or the best one if it is None.

    On one stage a prompt is one chunk if memory allows: other answers continue between its layers. Several stages run a
    chunk without interruption while others wait, so the default's longest chunk stays the limit; the speed model
    decides into how many chunks a prompt is cut to keep the stages busy.

    Raises:
        PlacementError: a node lacks the memory for the chunks of `asked`.
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
