"""What the engine's tests run: a checkpoint's layers in one or more stages, without tokenizer and coordinator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_moe import families
from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.config import ModelConfig
from mlx_moe.families import has_mtp, head_parameters, mtp_parameters
from mlx_moe.layers.expert_dispatch import Dispatch
from mlx_moe.layers.experts import NO_PEERS, ExpertPeers, Experts, RoutedExperts
from mlx_moe.layers.steps import Steps
from mlx_moe.pipeline.embedding_and_lm_head import LoadedEmbeddingAndLMHead
from mlx_moe.pipeline.frame import Frame, FrameKind, Refused
from mlx_moe.pipeline.link import LocalLink
from mlx_moe.pipeline.mtp import MultiTokenPrediction
from mlx_moe.pipeline.shard import ExpertShard, Shard
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.pipeline.stage import Stage


@dataclass
class Engine:
    """A model in stages, one behind the other."""

    config: ModelConfig
    head: LoadedEmbeddingAndLMHead
    link: LocalLink
    mtp: MultiTokenPrediction | None = None

    def hidden_states(self, input_ids: Sequence[int], chunks: Sequence[int], sequence_id: str = "r") -> mx.array:
        """Return the hidden states of all positions `[L, D]`, run in chunks of these lengths; decode where it is 1."""
        position, parts = 0, []
        for length in chunks:
            embedded = self.head.embed(mx.array(input_ids[position : position + length]))
            kind = FrameKind.DECODE if length == 1 else FrameKind.PREFILL
            self.link.send(Frame(sequence_id, position, embedded, kind))
            parts.append(self._receive(sequence_id))
            position += length
        return mx.concatenate(parts)

    def logits(
        self, input_ids: Sequence[int], chunks: Sequence[int] | None = None, sequence_id: str = "r"
    ) -> np.ndarray:
        """Return the logits of all positions `[L, V]`."""
        logits = self.head.logits(self.hidden_states(input_ids, chunks or [len(input_ids)], sequence_id))
        return np.array(logits.astype(mx.float32))

    def greedy(self, input_ids: Sequence[int], count: int) -> list[int]:
        """Return the likeliest next tokens, position by position."""
        written = [int(self.logits(input_ids, sequence_id="greedy")[-1].argmax())]
        for position in range(len(input_ids), len(input_ids) + count - 1):
            embedded = self.head.embed(mx.array(written[-1:]))
            self.link.send(Frame("greedy", position, embedded, FrameKind.DECODE))
            logits = self.head.logits(self._receive("greedy"))
            written.append(int(mx.argmax(logits[-1]).item()))
        return written

    def _receive(self, sequence_id: str) -> mx.array:
        while not (returned := self.link.receive(sequence_id)):
            pass
        (frame,) = returned
        if isinstance(frame, Refused):
            raise frame.error
        return frame.hidden_states


def load_engine(
    directory: Path,
    layers: Sequence[range] | None = None,
    owned_experts: Mapping[int, tuple[int, ...]] | None = None,
    peers: ExpertPeers = NO_PEERS,
    recipe: Recipe = AS_STORED,
    dtype: mx.Dtype = mx.float32,
) -> Engine:
    """Load a checkpoint in a dtype, quantized by `recipe`, its layers in as many stages as there are ranges."""
    with Checkpoint.open(directory) as checkpoint:
        config = families.config_of(checkpoint)
        specs = [ShardSpec(r, owned_experts or {}) for r in layers or [range(config.num_hidden_layers)]]
        parameters = head_parameters(config)
        with_mtp = has_mtp(checkpoint, config)
        if with_mtp:
            parameters += mtp_parameters(config)
        loaded = loader.load(checkpoint, find(checkpoint, parameters, recipe), dtype)
        head = LoadedEmbeddingAndLMHead.build(config, loaded, dtype)
        stages = []
        for number, spec in enumerate(specs):
            shard = loader.load(checkpoint, find(checkpoint, spec.parameters(config), recipe), dtype)
            stages.append(Stage(Shard.build(spec, config, shard, dtype, peers), f"node-{number}"))
        mtp = MultiTokenPrediction.build(config, loaded, head) if with_mtp else None
        return Engine(config, head, LocalLink(stages, slice_s=math.inf), mtp)  # every frame whole, however slow


OwnedExperts = Mapping[int, tuple[int, ...]]
"""The experts that one owner has, by layer."""


class LocalPeers:
    """Expert peers in this process. Owner 0 is the leader, whose shards are elsewhere."""

    def __init__(self, shards: Sequence[ExpertShard], owned: Sequence[OwnedExperts]) -> None:
        self.shards = shards
        self._dispatch = {
            layer: Dispatch({expert: owner for owner, experts in enumerate(owned) for expert in experts[layer]})
            for layer in owned[0]
        }

    def bind(self, layer: int, own: Experts | None) -> RoutedExperts:
        """See ExpertPeers."""
        owners = [own, *(shard.experts.get(layer) for shard in self.shards)]
        return LocalOwners(self._dispatch[layer], owners)


class LocalOwners:
    """RoutedExperts of several owners in this process."""

    def __init__(self, dispatch: Dispatch, owners: Sequence[Experts | None]) -> None:
        self._dispatch = dispatch
        self._owners = owners

    def steps(self, x: mx.array, indices: mx.array, meanwhile: mx.array | None) -> Steps[mx.array]:  # noqa: ARG002
        """See RoutedExperts."""
        yield from ()
        split = self._dispatch.split(np.array(indices))
        rows = {}
        for owner, pairs in split.pairs.items():
            experts = self._owners[owner]
            assert experts is not None
            rows[owner] = experts.pairs(x, pairs)
        return split.join(rows)


def load_peers(directory: Path, owned: Sequence[OwnedExperts]) -> LocalPeers:
    """Load the experts of all owners but the first, the leader, in float32."""
    with Checkpoint.open(directory) as checkpoint:
        config = families.config_of(checkpoint)
        shards = []
        for experts in owned[1:]:
            spec = ShardSpec(range(config.num_hidden_layers), experts)
            loaded = loader.load(checkpoint, find(checkpoint, spec.expert_parameters(config)), mx.float32)
            shards.append(ExpertShard.build(spec, config, loaded, mx.float32))
        return LocalPeers(shards, owned)
