"""Router specs that families share: a linear gate, and the choice of the experts with the best scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.parameter import Parameter, linear, vector
from mlx_moe.config import MoEConfig

if TYPE_CHECKING:
    from mlx_moe.layers.router import TopKRouter
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class TopKRouterSpec:
    """A router whose gate and bias for the choice are called `gate` and `correction_bias` below `path`.

    `also` are other paths below which checkpoints have them.
    """

    path: str
    hidden_size: int
    moe: MoEConfig
    gate: str = "gate"
    correction_bias: str = "gate.e_score_correction_bias"
    also: tuple[str, ...] = ()

    def parameters(self) -> list[Parameter]:
        """See RouterSpec."""
        n_experts = self.moe.n_routed_experts
        gates, biases = ([f"{path}.{name}" for path in self.also] for name in (self.gate, self.correction_bias))
        parameters = [linear(f"{self.path}.{self.gate}", n_experts, self.hidden_size, float32=True, also=gates)]
        if self.moe.correction_bias:
            parameters.append(vector(f"{self.path}.{self.correction_bias}", n_experts, float32=True, also=biases))
        return parameters

    def build(self, loaded: LoadedParameters) -> TopKRouter:
        """See RouterSpec."""
        from mlx_moe.layers.router import TopKRouter

        scope = loaded.scope(self.path)
        bias = scope.vector(self.correction_bias) if self.moe.correction_bias else None
        return TopKRouter(self.moe, scope.linear(self.gate), bias)
