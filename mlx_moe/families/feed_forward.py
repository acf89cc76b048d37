"""Feed-forward specs that families share: a dense MLP, and routed experts with a router and shared experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_moe.checkpoint import parameter
from mlx_moe.checkpoint.parameter import Parameter, linear
from mlx_moe.config import ModelConfig, MoEConfig
from mlx_moe.families.routing import TopKRouterSpec

if TYPE_CHECKING:
    from mlx_moe.families.layer_spec import BindExperts, ExpertsSpec, RouterSpec, SharedExpertsSpec
    from mlx_moe.layers.experts import Experts
    from mlx_moe.layers.feed_forward import MLP, SigmoidGatedMLP
    from mlx_moe.layers.moe import MoE
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """A dense gated feed-forward with parameters below `path`; `fused` is the name of one matrix of gate and up."""

    path: str
    hidden_size: int
    intermediate_size: int
    fused: str = ""

    experts = None

    def parameters(self) -> list[Parameter]:
        """See FeedForwardSpec."""
        size, width, names = self.hidden_size, self.intermediate_size, ("gate_proj", "up_proj")
        if self.fused:
            gate_and_up = parameter.halves(self.path, self.fused, names, width, size)
        else:
            gate_and_up = [linear(f"{self.path}.{name}", width, size) for name in names]
        return [*gate_and_up, linear(f"{self.path}.down_proj", size, width)]

    def build(self, loaded: LoadedParameters, owned: Sequence[int], bind: BindExperts) -> MLP:  # noqa: ARG002
        """See FeedForwardSpec. `owned` and `bind` are unused: there are no experts."""
        return self.mlp(loaded)

    def mlp(self, loaded: LoadedParameters) -> MLP:
        """Return the MLP built from its loaded parameters."""
        from mlx_moe.layers.feed_forward import MLP

        return MLP(loaded.scope(self.path))


@dataclass(frozen=True, slots=True)
class GatedExpertsSpec:
    """Routed experts, each a gated MLP, below `path`; `names` are the projections' names in tensors per expert.

    `also` are other paths below which checkpoints have them, and `stacked` is the name below which MLX stacks
    them, `stacks` are the names of fused ones.
    """

    path: str
    hidden_size: int
    moe: MoEConfig
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    also: tuple[str, ...] = ()
    stacked: str = "switch_mlp"
    stacks: tuple[tuple[str, str], ...] = (parameter.FUSED,)

    def parameters(self, owned: Sequence[int]) -> list[Parameter]:
        """See ExpertsSpec."""
        if not owned:
            return []
        n_experts, width, hidden_size = self.moe.n_routed_experts, self.moe.moe_intermediate_size, self.hidden_size
        paths, stacks = (self.path, *self.also), (self.stacked, self.stacks)
        gate, up, down = self.names
        return [
            parameter.experts(paths, "gate_proj", gate, n_experts, owned, width, hidden_size, *stacks),
            parameter.experts(paths, "up_proj", up, n_experts, owned, width, hidden_size, *stacks),
            parameter.experts(paths, "down_proj", down, n_experts, owned, hidden_size, width, *stacks),
        ]

    def build(self, loaded: LoadedParameters, owned: Sequence[int]) -> Experts:
        """See ExpertsSpec."""
        from mlx_moe.layers.experts import Experts, GatedMLPs

        return Experts(self.moe.n_routed_experts, owned, GatedMLPs(loaded.scope(f"{self.path}.experts")))


@dataclass(frozen=True, slots=True)
class SigmoidGatedMLPSpec:
    """A dense gated feed-forward below `mlp`, whose result a sigmoid of a linear map below `gate` scales."""

    mlp_spec: MLPSpec
    gate: str

    def parameters(self) -> list[Parameter]:
        """See SharedExpertsSpec."""
        return [*self.mlp_spec.parameters(), linear(self.gate, 1, self.mlp_spec.hidden_size)]

    def mlp(self, loaded: LoadedParameters) -> SigmoidGatedMLP:
        """See SharedExpertsSpec."""
        from mlx_moe.layers.feed_forward import SigmoidGatedMLP

        return SigmoidGatedMLP(self.mlp_spec.mlp(loaded), loaded.linear(self.gate))


@dataclass(frozen=True, slots=True)
class MoESpec:
    """A router, routed experts and, if the model has them, shared experts.

    If the router `weights_inputs`, the chosen expert's input is multiplied by its weight, not its result.
    """

    router: RouterSpec
    experts: ExpertsSpec
    shared_experts: SharedExpertsSpec | None = None
    weights_inputs: bool = False

    def parameters(self) -> list[Parameter]:
        """See FeedForwardSpec."""
        shared = [] if self.shared_experts is None else self.shared_experts.parameters()
        return [*self.router.parameters(), *shared]

    def build(self, loaded: LoadedParameters, owned: Sequence[int], bind: BindExperts) -> MoE:
        """See FeedForwardSpec."""
        from mlx_moe.layers.moe import MoE

        return MoE(
            self.router.build(loaded),
            bind(self.experts.build(loaded, owned) if owned else None),
            None if self.shared_experts is None else self.shared_experts.mlp(loaded),
            weights_inputs=self.weights_inputs,
        )


def default_feed_forward(
    config: ModelConfig, index: int, *, stacked: str = "switch_mlp", correction_bias: str | None = None
) -> MLPSpec | MoESpec:
    """Return the feed-forward of layer `index`, with the parameter names that most families use.

    A `correction_bias` is called so in published checkpoints, and as usual in others.
    """
    path = f"model.layers.{index}.mlp"
    moe, hidden_size = config.moe, config.hidden_size
    if index not in config.moe_layers:
        return MLPSpec(path, hidden_size, config.intermediate_size)
    width = moe.moe_intermediate_size * moe.n_shared_experts
    router = TopKRouterSpec(path, hidden_size, moe)
    if correction_bias is not None:
        router = replace(router, correction_bias=correction_bias, also=(f"{path}.gate",))
    return MoESpec(
        router,
        GatedExpertsSpec(path, hidden_size, moe, stacked=stacked),
        MLPSpec(f"{path}.shared_experts", hidden_size, width) if width else None,
    )
