"""Prediction: the speed of a placement's answers, by the speed model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.placement.capacity import Link, Links, NodeCapacity
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import Placement, StagePlacement
from cluster.placement.timing import Owner, decode_s, head_s, hop_s, prefill_s, slower_way
from mlx_moe.decoding.chunking import ChunkRule, cut
from mlx_moe.layers.batches import TOGETHER, largest_batch


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a step in each stage, in each hop to the next one (empty for one stage), and in the lm_head.

    They hold for the token at `position`. `steps_s[n - 1]` are those of a step of n sequences, up to TOGETHER.
    """

    position: int
    steps_s: tuple[tuple[float, ...], ...]
    hop_s: tuple[float, ...]
    head_s: float
    ttft_s: dict[int, float]
    """Seconds to the first token by the prompt's number of tokens."""

    @property
    def stage_s(self) -> tuple[float, ...]:
        """Seconds of one position in each stage."""
        return self.steps_s[0]

    @property
    def token_s(self) -> float:
        """Seconds per token for one user."""
        return self._round_s(1)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second for one user."""
        return 1 / self.token_s

    def together_tokens_per_s(self, users: int) -> float:
        """Tokens per second of `users` together, in batches as the scheduler makes them.

        At most those of a full pipeline, which is limited by its slowest stage.
        """
        together = largest_batch(users, len(self.stage_s))
        first_s, *others_s = self.steps_s[together - 1]
        return min(users / self._round_s(together), together / max(first_s + self.head_s, *others_s, 0.0))

    @property
    def most_tokens_per_s(self) -> float:
        """Tokens per second of a pipeline whose stages are full of batches of TOGETHER sequences."""
        return self.together_tokens_per_s(len(self.stage_s) * TOGETHER)

    def _round_s(self, n: int) -> float:
        """Return the seconds of a batch of n sequences from token to token."""
        return sum(self.steps_s[n - 1]) + sum(self.hop_s) + self.head_s


def predict(
    placement: Placement,
    model: ModelCosts,
    nodes: Sequence[NodeCapacity],
    links: Links,
    *,
    prompts: Sequence[int] = (),
) -> Prediction:
    """Predict a placement's speed in the middle of its context, and its times to first token for prompt lengths."""
    by_id = {node.node_id: node for node in nodes}
    stages = [StageTiming(model, stage, by_id, links) for stage in placement.stages]
    hops = _hops(placement, links)
    position, head = placement.context_tokens // 2, head_s(model, by_id[placement.coordinator])
    return Prediction(
        position=position,
        steps_s=tuple(tuple(stage.decode_s(position, n + 1) for stage in stages) for n in range(TOGETHER)),
        hop_s=tuple(hop_s(model, link) for link in hops),
        head_s=head,
        ttft_s={n: _prefill_s(model, stages, hops, n, placement.chunks) + head for n in prompts},
    )


def longest_delay_s(
    placement: Placement, model: ModelCosts, nodes: Sequence[NodeCapacity], links: Links, length: int
) -> float:
    """Return for how many seconds chunks of another answer's prompt delay a token at most.

    Each stage lets steps run between the layers of a chunk, so a token waits for one layer in each stage, and for a
    chunk that leaves before it in each hop.
    """
    by_id = {node.node_id: node for node in nodes}
    end = max(placement.context_tokens, length)
    timings = (StageTiming(model, stage, by_id, links) for stage in placement.stages)
    in_stages = sum(timing.slowest_layer_s(end - length, end) for timing in timings)
    return in_stages + sum(hop_s(model, link, length) for link in _hops(placement, links))


def _hops(placement: Placement, links: Links) -> list[Link]:
    """Return the links from each stage to the next one, and from the last to the first; none for a single stage."""
    ids = [stage.node_id for stage in placement.stages]
    return [links.between(a, b) for a, b in pairwise([*ids, ids[0]])] if len(ids) > 1 else []


def _prefill_s(
    model: ModelCosts, stages: Sequence[StageTiming], hops: Sequence[Link], prompt_tokens: int, chunks: ChunkRule
) -> float:
    """Return after how many seconds the last chunk is back. Each stage runs the chunks in order, as they arrive."""
    ready = [0.0] * len(stages)  # when each stage has finished the previous chunk
    start, done = 0, 0.0
    outputs = 1 if model.mtp is None else None  # the MTP layer needs the hidden states of the whole prompt
    for end in cut(0, prompt_tokens, chunks.length(prompt_tokens)):
        done = 0.0
        for i, stage in enumerate(stages):
            done = max(done, ready[i]) + stage.prefill_s(start, end, outputs)
            ready[i] = done
            done += hop_s(model, hops[i], end - start) if hops else 0.0
        start = end
    return done


class StageTiming:
    """Times of one stage: of its layers with the owners of their experts."""

    def __init__(self, model: ModelCosts, stage: StagePlacement, nodes: dict[str, NodeCapacity], links: Links) -> None:
        self._model = model
        self._layers = []
        for index in stage.layers:
            owners = [
                Owner(
                    nodes[node_id],
                    len(experts),
                    None if node_id == stage.node_id else slower_way(links, stage.node_id, node_id),
                )
                for node_id, experts in stage.owners(index, model.n_experts).items()
            ]
            self._layers.append((model.layers[index], tuple(owners)))
        self._kinds = {kind: self._layers.count(kind) for kind in dict.fromkeys(self._layers)}
        self._ends_model = stage.layers.stop == len(model.layers)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def decode_s(self, position: int, n_sequences: int = 1) -> float:
        """Return the seconds of a step of so many sequences, each attending to `position` others."""
        return sum(
            n * decode_s(self._model, layer, owners, position, n_sequences)
            for (layer, owners), n in self._kinds.items()
        )

    def slowest_layer_s(self, start: int, end: int) -> float:
        """Return the seconds that one layer takes at most for a prompt's positions [start, end)."""
        return max(prefill_s(self._model, layer, owners, start, end) for layer, owners in self._kinds)

    def prefill_s(self, start: int, end: int, outputs: int | None = None) -> float:
        """Return the seconds of a prompt's positions [start, end).

        The model's last layer computes only the last `outputs` of them (None: all).
        """
        seconds = sum(
            n * prefill_s(self._model, layer, owners, start, end) for (layer, owners), n in self._kinds.items()
        )
        if outputs is None or not self._ends_model:
            return seconds
        layer, owners = self._layers[-1]
        spared = prefill_s(self._model, layer, owners, start, end)
        return seconds - spared + prefill_s(self._model, layer, owners, end - outputs, end)
