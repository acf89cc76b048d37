"""Feed-forward specs that families share: a dense MLP, and routed experts with shared experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_moe.checkpoint import parameter
from mlx_moe.checkpoint.parameter import Parameter, linear, vector
from mlx_moe.config import ModelConfig, MoEConfig

if TYPE_CHECKING:
    from mlx_moe.families.layer_spec import BindExperts
    from mlx_moe.layers.experts import Experts
    from mlx_moe.layers.feed_forward import MLP
    from mlx_moe.layers.moe import MoE
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """A dense gated feed-forward with parameters below `path`."""

    path: str
    hidden_size: int
    intermediate_size: int

    experts = None

    def parameters(self) -> list[Parameter]:
        """See FeedForwardSpec."""
        return [
            linear(f"{self.path}.gate_proj", self.intermediate_size, self.hidden_size),
            linear(f"{self.path}.up_proj", self.intermediate_size, self.hidden_size),
            linear(f"{self.path}.down_proj", self.hidden_size, self.intermediate_size),
        ]

    def build(self, loaded: LoadedParameters, owned: Sequence[int], bind: BindExperts) -> MLP:  # noqa: ARG002
        """See FeedForwardSpec. `owned` and `bind` are unused: there are no experts."""
        return self.mlp(loaded)

    def mlp(self, loaded: LoadedParameters) -> MLP:
        """Return the MLP built from its loaded parameters."""
        from mlx_moe.layers.feed_forward import MLP

        return MLP(loaded.scope(self.path))


@dataclass(frozen=True, slots=True)
class GatedExpertsSpec:
    """Routed experts, each a gated MLP, below `path`; `names` are the projections' names in tensors per expert."""

    path: str
    hidden_size: int
    moe: MoEConfig
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")

    def parameters(self, owned: Sequence[int]) -> list[Parameter]:
        """See ExpertsSpec."""
        if not owned:
            return []
        n_experts, width, hidden_size = self.moe.n_routed_experts, self.moe.moe_intermediate_size, self.hidden_size
        gate, up, down = self.names
        return [
            parameter.experts(self.path, "gate_proj", gate, n_experts, owned, width, hidden_size),
            parameter.experts(self.path, "up_proj", up, n_experts, owned, width, hidden_size),
            parameter.experts(self.path, "down_proj", down, n_experts, owned, hidden_size, width),
        ]

    def build(self, loaded: LoadedParameters, owned: Sequence[int]) -> Experts:
        """See ExpertsSpec."""
        from mlx_moe.layers.experts import Experts

        return Experts(self.moe.n_routed_experts, owned, loaded.scope(f"{self.path}.experts"))


@dataclass(frozen=True, slots=True)
class MoESpec:
    """A router, routed experts and, if the model has them, shared experts, with parameters below `path`."""

    path: str
    hidden_size: int
    moe: MoEConfig
    experts: GatedExpertsSpec

    def parameters(self) -> list[Parameter]:
        """See FeedForwardSpec."""
        n_experts = self.moe.n_routed_experts
        parameters = [linear(f"{self.path}.gate", n_experts, self.hidden_size, float32=True)]
        if self.moe.correction_bias:
            parameters.append(vector(f"{self.path}.gate.e_score_correction_bias", n_experts, float32=True))
        shared = self._shared_experts
        return parameters if shared is None else parameters + shared.parameters()

    def build(self, loaded: LoadedParameters, owned: Sequence[int], bind: BindExperts) -> MoE:
        """See FeedForwardSpec."""
        from mlx_moe.layers.moe import MoE
        from mlx_moe.layers.router import Router

        shared = self._shared_experts
        return MoE(
            Router(self.moe, loaded.scope(self.path)),
            bind(self.experts.build(loaded, owned) if owned else None),
            None if shared is None else shared.mlp(loaded),
        )

    @property
    def _shared_experts(self) -> MLPSpec | None:
        width = self.moe.moe_intermediate_size * self.moe.n_shared_experts
        return MLPSpec(f"{self.path}.shared_experts", self.hidden_size, width) if width else None


def default_feed_forward(config: ModelConfig, index: int) -> MLPSpec | MoESpec:
    """Return the feed-forward of layer `index`, with the parameter names that most families use."""
    path = f"model.layers.{index}.mlp"
    if index not in config.moe_layers:
        return MLPSpec(path, config.hidden_size, config.intermediate_size)
    experts = GatedExpertsSpec(path, config.hidden_size, config.moe)
    return MoESpec(path, config.hidden_size, config.moe, experts)
