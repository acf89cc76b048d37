"""Routing that families share: a linear gate, the choice of the experts with the best scores, and how both are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.parameter import Parameter, as_row, linear, vector
from mlx_moe.config import MoEConfig
from mlx_moe.config_fields import ConfigFields

if TYPE_CHECKING:
    from mlx_moe.layers.router import TopKRouter
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class TopKRouterSpec:
    """A router whose gate and bias for the choice are called `gate` and `correction_bias` below `path`.

    `also` are other paths below which checkpoints have them, `also_gates` other names of the gate. A correction bias
    may be stored as a row, `[1, E]`.
    """

    path: str
    hidden_size: int
    moe: MoEConfig
    gate: str = "gate"
    correction_bias: str = "gate.e_score_correction_bias"
    also: tuple[str, ...] = ()
    also_gates: tuple[str, ...] = ()
    gate_bias: bool = False
    correction_bias_is_row: bool = False

    def parameters(self) -> list[Parameter]:
        """See RouterSpec."""
        n_experts = self.moe.n_routed_experts
        gates, biases = ([f"{path}.{name}" for path in self.also] for name in (self.gate, self.correction_bias))
        gates += [f"{self.path}.{name}" for name in self.also_gates]
        parameters = [linear(f"{self.path}.{self.gate}", n_experts, self.hidden_size, float32=True, also=gates)]
        if self.gate_bias:
            parameters.append(vector(f"{self.path}.{self.gate}.bias", n_experts, float32=True))
        if self.moe.correction_bias:
            bias = vector(f"{self.path}.{self.correction_bias}", n_experts, float32=True, also=biases)
            parameters.append(as_row(bias) if self.correction_bias_is_row else bias)
        return parameters

    def build(self, loaded: LoadedParameters) -> TopKRouter:
        """See RouterSpec."""
        from mlx_moe.layers.router import TopKRouter

        scope = loaded.scope(self.path)
        bias = scope.vector(self.correction_bias) if self.moe.correction_bias else None
        return TopKRouter(self.moe, scope.linear(self.gate), bias)


def sigmoid_experts(
    fields: ConfigFields,
    *,
    n_group: int = 1,
    topk_group: int = 1,
    routed_scaling_factor: float = 1.0,
    n_shared_experts: int = 1,
    norm_topk_prob: bool = True,
) -> MoEConfig:
    """Read experts that are chosen as in DeepSeek-V3: by sigmoid scores with a correction bias, from the best groups.

    The arguments are defaults. Raises CheckpointError.
    """
    groups = fields.optional("n_group", default=n_group) or 1
    return MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=fields.optional("n_shared_experts", "num_shared_experts", default=n_shared_experts) or 0,
        scoring_func="sigmoid",
        norm_topk_prob=fields.flag("norm_topk_prob", default=norm_topk_prob),
        routed_scaling_factor=fields.number("routed_scaling_factor", default=routed_scaling_factor),
        n_group=groups,
        topk_group=fields.optional("topk_group", default=min(topk_group, groups)) or groups,
        correction_bias=True,
    )


def layers_after_dense(fields: ConfigFields, *, default: int) -> frozenset[int]:
    """Return the layers with experts, of the MTP layers too: every moe_layer_freq-th after the first, dense ones."""
    first = fields.optional("first_k_dense_replace", default=default) or 0
    frequency = fields.dimension("moe_layer_freq", default=1)
    n_layers = fields.dimension("num_hidden_layers") + read_mtp_layers(fields)
    return frozenset(layer for layer in range(first, n_layers) if layer % frequency == 0)


def layers_by_type(fields: ConfigFields, *, default: int) -> frozenset[int]:
    """Return the layers with experts: by mlp_layer_types, as transformers 5 writes them, or by the number of others."""
    types = fields.words("mlp_layer_types")
    if not types:
        return layers_after_dense(fields, default=default)
    n_layers = fields.dimension("num_hidden_layers")
    mtp_layers = range(n_layers, n_layers + read_mtp_layers(fields))
    return frozenset([*(i for i, kind in enumerate(types[:n_layers]) if kind == "sparse"), *mtp_layers])


def layers_by_step(fields: ConfigFields) -> frozenset[int]:
    """Return the layers with experts: every decoder_sparse_step-th but for mlp_only_layers, as in Qwen's models."""
    dense_layers = fields.dimensions("mlp_only_layers")
    step = fields.dimension("decoder_sparse_step", default=1)
    layers = range(fields.dimension("num_hidden_layers"))
    return frozenset(layer for layer in layers if layer not in dense_layers and (layer + 1) % step == 0)


def read_mtp_layers(fields: ConfigFields) -> int:
    """Return the number of MTP layers, which follow the model's last layer."""
    return fields.optional("num_nextn_predict_layers", "num_mtp_layers") or 0
