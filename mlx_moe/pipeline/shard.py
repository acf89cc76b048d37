"""Shard: what one worker holds: a range of layers, and its experts in each of them.

Knows nothing about requests: `stage` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_moe import families
from mlx_moe.config import ModelConfig
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.layers.expert_load import ExpertLoad
from mlx_moe.layers.experts import NO_PEERS, ExpertPeers, Experts
from mlx_moe.layers.weights import LoadedParameters
from mlx_moe.pipeline.shard_spec import ShardSpec


@dataclass(frozen=True, slots=True)
class Shard:
    """The built layers of a shard, in order, and how often they choose which experts."""

    spec: ShardSpec
    config: ModelConfig
    layers: tuple[DecoderLayer, ...]
    dtype: mx.Dtype
    expert_load: ExpertLoad

    @classmethod
    def build(
        cls,
        spec: ShardSpec,
        config: ModelConfig,
        loaded: LoadedParameters,
        dtype: mx.Dtype,
        peers: ExpertPeers = NO_PEERS,
    ) -> Shard:
        """Return the shard built from its loaded parameters; `peers` own the experts that it does not."""
        expert_load = ExpertLoad(config.moe.n_routed_experts, peers)
        layers = (
            families.layer(config, i).build(loaded, spec.experts_of(config, i), partial(expert_load.bind, i))
            for i in spec.layers
        )
        return cls(spec, config, tuple(layers), dtype, expert_load)


@dataclass(frozen=True, slots=True)
class ExpertShard:
    """What an expert peer holds: only its owned experts, by layer."""

    spec: ShardSpec
    config: ModelConfig
    experts: Mapping[int, Experts]
    dtype: mx.Dtype

    @classmethod
    def build(cls, spec: ShardSpec, config: ModelConfig, loaded: LoadedParameters, dtype: mx.Dtype) -> ExpertShard:
        """Return the experts built from their loaded parameters."""
        built: dict[int, Experts] = {}
        for index in spec.layers:
            experts, owned = families.layer(config, index).feed_forward.experts, spec.experts_of(config, index)
            if experts is not None and owned:
                built[index] = experts.build(loaded, owned)
        return cls(spec, config, built, dtype)
