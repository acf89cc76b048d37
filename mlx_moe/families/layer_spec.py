"""LayerSpec: a family's description of one decoder layer: its parameters, how to build it, and its cache's memory.

The parts are protocols: a family may have its own attention or feed-forward, and other ones for each layer. Those that
several families share are in `attention`, `feed_forward` and `routing`. Only building imports MLX: plans are made
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlx_moe.checkpoint.parameter import Parameter, vector
from mlx_moe.layers.cache_costs import CacheCosts

if TYPE_CHECKING:
    from mlx_moe.layers.decoder import Attention, DecoderLayer, FeedForward
    from mlx_moe.layers.experts import Experts, RoutedExperts
    from mlx_moe.layers.moe import Router, SharedExperts
    from mlx_moe.layers.weights import LoadedParameters

    BindExperts = Callable[[Experts | None], RoutedExperts]


class AttentionSpec(Protocol):
    """The attention of one layer."""

    @property
    def is_latent(self) -> bool:
        """Whether all heads share one latent; the speeds of chips are calibrated with and without it."""

    @property
    def flops(self) -> int:
        """Floating-point operations for one query and one kept position."""

    def parameters(self) -> list[Parameter]:
        """Return its parameters, with full names."""

    def build(self, loaded: LoadedParameters) -> Attention:
        """Return the attention built from its loaded parameters."""

    def cache_costs(self, float_bytes: int) -> CacheCosts:
        """Return the costs of one sequence's cache, with numbers of `float_bytes`."""


class ExpertsSpec(Protocol):
    """The routed experts of one layer."""

    def parameters(self, owned: Sequence[int]) -> list[Parameter]:
        """Return the parameters of owned experts; an empty list if none are owned."""

    def build(self, loaded: LoadedParameters, owned: Sequence[int]) -> Experts:
        """Return the owned experts built from their loaded parameters."""


class RouterSpec(Protocol):
    """What chooses the experts of one layer's positions."""

    def parameters(self) -> list[Parameter]:
        """Return its parameters, with full names."""

    def build(self, loaded: LoadedParameters) -> Router:
        """Return the router built from its loaded parameters."""


class SharedExpertsSpec(Protocol):
    """The experts of one layer that compute every position."""

    def parameters(self) -> list[Parameter]:
        """Return their parameters, with full names."""

    def mlp(self, loaded: LoadedParameters) -> SharedExperts:
        """Return them built from their loaded parameters."""


class FeedForwardSpec(Protocol):
    """The feed-forward half of one layer."""

    @property
    def experts(self) -> ExpertsSpec | None:
        """Its routed experts; None for a dense layer."""

    def parameters(self) -> list[Parameter]:
        """Return its parameters, with full names, without those of routed experts."""

    def build(self, loaded: LoadedParameters, owned: Sequence[int], bind: BindExperts) -> FeedForward:
        """Return the feed-forward built from its loaded parameters.

        `owned` are the routed experts in this process; `bind` adds the others.
        """


Stored = Callable[[Parameter], Parameter]
"""Returns a parameter with the layouts in which a family's checkpoints store it, if they differ from its own."""


def as_named(parameter: Parameter) -> Parameter:
    """Return the parameter: it is stored under its own name."""
    return parameter


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A decoder layer: attention and feed-forward, each after a norm; `norms` has the norms' names, in order.

    `output_norms` has those of the norms of their results, if there are any, `norm_bias` says that norms have a bias.
    Results are multiplied by `residual_multiplier`. `stored` tells how the family's checkpoints store a parameter, see
    `Stored`.
    """

    path: str
    hidden_size: int
    norm_eps: float
    attention: AttentionSpec
    feed_forward: FeedForwardSpec
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")
    output_norms: tuple[str, str] | None = None
    norm_bias: bool = False
    residual_multiplier: float = 1.0
    stored: Stored = as_named

    def parameters(self, owned: Sequence[int]) -> list[Parameter]:
        """Return all parameters; of the routed experts only the `owned` ones."""
        return [*self.fixed_parameters(), *self.expert_parameters(owned)]

    def fixed_parameters(self) -> list[Parameter]:
        """Return the parameters without those of routed experts: the node that runs the layer needs all of them."""
        names = (*self.norms, *(self.output_norms or ()))
        ends = ("weight", "bias") if self.norm_bias else ("weight",)
        norms = [vector(f"{self.path}.{name}.{end}", self.hidden_size) for name in names for end in ends]
        return [*map(self.stored, [*norms, *self.attention.parameters(), *self.feed_forward.parameters()])]

    def expert_parameters(self, owned: Sequence[int]) -> list[Parameter]:
        """Return the parameters of the `owned` routed experts."""
        experts = self.feed_forward.experts
        return [] if experts is None else [*map(self.stored, experts.parameters(owned))]

    def build(self, loaded: LoadedParameters, owned: Sequence[int], bind: BindExperts) -> DecoderLayer:
        """Return the layer built from its loaded parameters; `owned` and `bind` as in FeedForwardSpec."""
        from mlx_moe.layers.decoder import DecoderLayer

        norms, output_norms = (
            [loaded.norm(f"{self.path}.{name}", self.norm_eps) for name in names]
            for names in (self.norms, self.output_norms or ())
        )
        attention, feed_forward = self.attention.build(loaded), self.feed_forward.build(loaded, owned, bind)
        return DecoderLayer(norms, output_norms, attention, feed_forward, self.residual_multiplier)
