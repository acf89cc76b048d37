"""ShardSpec: which layers and experts a shard has, and their parameters. Imports no MLX: daemons use it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_moe import families
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import ModelConfig


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
