"""JoinedExpertsSpec: routed experts whose gate and up projections are one stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.joined_experts import joined_experts
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import MoEConfig

if TYPE_CHECKING:
    from mlx_moe.layers.experts import Experts
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class Clamp:
    """The parameters of gpt-oss' activation, see `clamped_swiglu`."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class JoinedExpertsSpec:
    """Routed experts below `path`: with a `clamp` they have biases and rows that take turns, as in gpt-oss."""

    path: str
    hidden_size: int
    moe: MoEConfig
    clamp: Clamp | None = None

    def parameters(self, owned: Sequence[int]) -> list[Parameter]:
        """See ExpertsSpec."""
        if not owned:
            return []
        sizes = (self.moe.n_routed_experts, owned, self.moe.moe_intermediate_size, self.hidden_size)
        parameters = joined_experts(f"{self.path}.experts", *sizes, alternating=self.clamp is not None)
        return parameters if self.clamp else [parameter for parameter in parameters if parameter.matrix]

    def build(self, loaded: LoadedParameters, owned: Sequence[int]) -> Experts:
        """See ExpertsSpec."""
        from mlx_moe.layers.experts import Experts
        from mlx_moe.layers.feed_forward import swiglu
        from mlx_moe.layers.joined_mlps import JoinedMLPs, clamped_swiglu

        clamp = self.clamp
        activation = partial(clamped_swiglu, alpha=clamp.alpha, limit=clamp.limit) if clamp else swiglu
        mlps = JoinedMLPs(activation, loaded.scope(f"{self.path}.experts"))
        return Experts(self.moe.n_routed_experts, owned, mlps)
