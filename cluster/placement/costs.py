"""ModelCosts: what a model needs on the nodes that hold it: bytes of memory, and work for each position.

Computed from a configuration and its parameters' sizes, which `cost_reader` reads. Opens no files, imports no MLX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mlx_moe import families
from mlx_moe.checkpoint.modes import quantized_bytes
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.recipe import Recipe
from mlx_moe.config import ModelConfig
from mlx_moe.context import Context
from mlx_moe.decoding.chunking import DEFAULT_RULE, position_bytes
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.layers.cache_costs import KEPT_ROWS, CacheCosts

LONGEST_CHUNK = DEFAULT_RULE.longest
"""Length in positions of the longest prefill chunk whose temporaries are counted in `temporary_bytes`."""

PROCESS_BYTES = 150_000_000
"""Memory of a worker beside weights, KV cache and temporaries. Source: the limit in bench.worker_memory."""

SizeOf = Callable[[Parameter], int]
"""Returns the bytes of a parameter in memory."""


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """One layer. `fixed_...` counts all but the routed experts, `expert_...` one of them; 0 for a dense layer."""

    fixed_bytes: int
    fixed_parameters: int
    expert_bytes: int
    expert_parameters: int
    attention_flops: int
    """Floating-point operations for one query and one key."""
    cache: CacheCosts

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV cache per position, with those of windows that no sequence overflows."""
        return self.cache.full_bytes_per_position

    def owned_bytes(self, n_experts: int, positions: int) -> int:
        """Return the bytes on a leader that owns `n_experts` of the layer and has KV room for `positions`."""
        kv = self.cache.fixed_bytes + positions * self.kv_bytes if positions else 0
        return self.fixed_bytes + n_experts * self.expert_bytes + kv


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """A whole model. Sizes are bytes in memory, with floats of `float_bytes` (2 or 4), as the nodes compute.

    The coordinator holds `embedding_bytes`, `head_bytes` (0 if the embedding is also the lm_head), `norm_bytes` and the
    multi-token prediction layer `mtp`, if the checkpoint has one.
    """

    name: str
    parameters: int
    active_parameters: int
    """Parameters that compute one token: with the lm_head, without the embedding, as models are published."""
    float_bytes: int
    hidden_size: int
    context: Context
    latent_attention: bool
    """Whether the first layer has latent attention; the speeds of chips are calibrated with and without it."""
    n_experts: int
    experts_per_token: int
    layers: tuple[LayerCosts, ...]
    embedding_bytes: int
    head_bytes: int
    norm_bytes: int
    mtp: LayerCosts | None
    temporary_bytes: int
    """Memory of a worker beside weights and KV cache."""
    position_bytes: int
    """Bytes of temporaries for each position of a chunk."""

    def coordinator_bytes(self, positions: int) -> int:
        """Return the bytes that the coordinator holds, with KV room for `positions` in the MTP layer, if any."""
        mtp = 0 if self.mtp is None else self.mtp.owned_bytes(self.n_experts, positions)
        return self.embedding_bytes + self.head_bytes + self.norm_bytes + mtp

    @property
    def head_read_bytes(self) -> int:
        """Bytes that the lm_head reads for one token."""
        return self.head_bytes or self.embedding_bytes

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights without the multi-token prediction layer."""
        layers = sum(layer.owned_bytes(self.n_experts, 0) for layer in self.layers)
        return layers + self.embedding_bytes + self.head_bytes + self.norm_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights with the multi-token prediction layer."""
        return self.weights_bytes + (self.mtp.owned_bytes(self.n_experts, 0) if self.mtp else 0)

    @property
    def read_bytes_per_token(self) -> int:
        """Bytes of the weights that one token reads."""
        return sum(x.owned_bytes(self.experts_per_token, 0) for x in self.layers) + self.head_read_bytes

    @property
    def kv_bytes_per_position(self) -> int:
        """Bytes of KV cache of one position in all layers."""
        return sum(layer.kv_bytes for layer in self.layers)

    @property
    def bits(self) -> float:
        """Average number of bits per weight, scales and biases included."""
        return 8 * self.weights_bytes / self.parameters

    def at_bits(self, bits: float) -> ModelCosts:
        """Return estimated costs of the model stored with `bits` per weight on average, scales included."""
        share = bits / self.bits

        def scaled(layer: LayerCosts) -> LayerCosts:
            return replace(
                layer,
                fixed_bytes=int(share * layer.fixed_bytes),
                expert_bytes=int(share * layer.expert_bytes),
            )

        return replace(
            self,
            layers=tuple(scaled(layer) for layer in self.layers),
            embedding_bytes=int(share * self.embedding_bytes),
            head_bytes=int(share * self.head_bytes),
            mtp=None if self.mtp is None else scaled(self.mtp),
        )


def model_costs(
    name: str,
    config: ModelConfig,
    size_of: SizeOf,
    *,
    float_bytes: int,
    has_mtp: bool,
) -> ModelCosts:
    """Return the costs of a configuration whose parameters have the sizes that `size_of` returns."""
    moe = config.moe
    embedding, norm, *heads = families.head_parameters(config)
    specs = [families.layer(config, index) for index in range(config.num_hidden_layers)]
    layers = tuple(_layer_costs(config, spec, spec.fixed_parameters(), size_of, float_bytes) for spec in specs)
    return ModelCosts(
        name=name,
        parameters=_count([embedding, norm, *heads])
        + sum(x.fixed_parameters + moe.n_routed_experts * x.expert_parameters for x in layers),
        active_parameters=_count([norm, *(heads or [embedding])])
        + sum(x.fixed_parameters + moe.num_experts_per_tok * x.expert_parameters for x in layers),
        float_bytes=float_bytes,
        hidden_size=config.hidden_size,
        context=config.context,
        latent_attention=specs[0].attention.is_latent,
        n_experts=moe.n_routed_experts,
        experts_per_token=moe.num_experts_per_tok,
        layers=layers,
        embedding_bytes=size_of(embedding),
        head_bytes=sum(map(size_of, heads)),
        norm_bytes=size_of(norm),
        mtp=_mtp_costs(config, size_of, float_bytes) if has_mtp else None,
        temporary_bytes=PROCESS_BYTES
        + LONGEST_CHUNK * position_bytes(config, float_bytes)
        + KEPT_ROWS * config.hidden_size * float_bytes,
        position_bytes=position_bytes(config, float_bytes),
    )


def assumed_sizes(recipe: Recipe, float_bytes: int) -> SizeOf:
    """Return sizes as if every matrix were quantized by `recipe`."""

    def size_of(parameter: Parameter) -> int:
        return quantized_bytes(_count([parameter]), recipe.of(parameter), 4 if parameter.float32 else float_bytes)

    return size_of


def _mtp_costs(config: ModelConfig, size_of: SizeOf, float_bytes: int) -> LayerCosts:
    spec = families.layer(config, config.num_hidden_layers)
    experts = {parameter.name for parameter in spec.expert_parameters((0,))}
    fixed = [parameter for parameter in families.mtp_parameters(config) if parameter.name not in experts]
    return _layer_costs(config, spec, fixed, size_of, float_bytes)


def _layer_costs(
    config: ModelConfig, spec: LayerSpec, fixed: Sequence[Parameter], size_of: SizeOf, float_bytes: int
) -> LayerCosts:
    expert = spec.expert_parameters((0,))
    return LayerCosts(
        fixed_bytes=sum(map(size_of, fixed)),
        fixed_parameters=_count(fixed),
        expert_bytes=sum(map(size_of, expert)),
        expert_parameters=_count(expert),
        attention_flops=spec.attention.flops,
        cache=spec.attention.cache_costs(float_bytes).within(config.context.tokens),
    )


def _count(parameters: Iterable[Parameter]) -> int:
    return sum(math.prod(parameter.layouts[0].shape) for parameter in parameters)
