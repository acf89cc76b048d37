"""Shard: what one worker holds: a range of layers, and its experts in each of them.

Knows nothing about requests: `stage` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from mlx_moe import families
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import ModelConfig
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.layers.experts import NO_PEERS, ExpertPeers, Experts
from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """A half-open range of layers, and the owned experts by MoE layer; all experts of layers that are not listed."""

    layers: range
    owned_experts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def experts_of(self, config: ModelConfig, layer: int) -> tuple[int, ...]:
        """Return the owned experts of a layer, ascending; empty for a dense layer."""
        if layer not in config.moe_layers:
            return ()
        return tuple(sorted(self.owned_experts.get(layer, range(config.moe.n_routed_experts))))

    def n_experts(self, config: ModelConfig) -> int:
        """Return the number of owned experts in all layers together."""
        return sum(len(self.experts_of(config, layer)) for layer in self.layers)

    def parameters(self, config: ModelConfig) -> list[Parameter]:
        """Return the parameters of all its layers."""
        layers = ((families.layer(config, i), self.experts_of(config, i)) for i in self.layers)
        return [parameter for layer, owned in layers for parameter in layer.parameters(owned)]

    def expert_parameters(self, config: ModelConfig) -> list[Parameter]:
        """Return the parameters of only its owned experts."""
        layers = ((families.layer(config, i), self.experts_of(config, i)) for i in self.layers)
        return [parameter for layer, owned in layers for parameter in layer.expert_parameters(owned)]


@dataclass(frozen=True, slots=True)
class Shard:
    """The built layers of a shard, in order."""

    spec: ShardSpec
    config: ModelConfig
    layers: tuple[DecoderLayer, ...]
    dtype: mx.Dtype

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
        layers = (
            families.layer(config, i).build(loaded, spec.experts_of(config, i), partial(peers.bind, i))
            for i in spec.layers
        )
        return cls(spec, config, tuple(layers), dtype)


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
