"""ModelConfig: the content of config.json, read once into values that cannot be wrong.

Two dialects are read: that of published checkpoints (`rope_theta`, `rope_scaling`, `num_experts`) and that of
transformers 5 (`rope_parameters`, `num_local_experts`). Families read the keys that they need (see `families/`). Knows
nothing about tensors: their quantization is read from their headers, whatever config.json says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from mlx_moe.config_fields import ConfigFields
from mlx_moe.context import Context
from mlx_moe.rope_config import RopeConfig

SILU = ("silu", "swish")
"""The two names of the activation of both families' experts."""


@dataclass(frozen=True, slots=True)
class MLAConfig:
    """Multi-head latent attention. Source: DeepSeek-V2, arXiv 2405.04434, section 2.1."""

    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    attention_bias: bool

    @property
    def kv_width(self) -> int:
        """Numbers that one position adds to the KV cache of one layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True)
class GQAConfig:
    """Grouped-query attention, with RMSNorm over each head's query and key when `qk_norm`."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qk_norm: bool
    attention_bias: bool

    @property
    def kv_width(self) -> int:
        """Numbers that one position adds to the KV cache of one layer."""
        return 2 * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """Routed and shared experts of one MoE layer.

    Of `n_group` groups of experts `topk_group` are left to choose from: those with the largest sums of their
    `scores_of_group` best scores.
    """

    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int
    scoring_func: Literal["sigmoid", "softmax"]
    norm_topk_prob: bool
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    scores_of_group: int = 2
    correction_bias: bool = False


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """How a matrix is packed: `bits` a weight, one scale (affine: and one bias) per `group_size` inputs."""

    group_size: int
    bits: int
    mode: str = "affine"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The values that all families have in common; each family adds its own, such as its attention.

    `moe_layers` has the indices of the layers with routed experts.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: RopeConfig
    moe: MoEConfig
    moe_layers: frozenset[int]
    num_nextn_predict_layers: int

    @classmethod
    def read(
        cls,
        fields: ConfigFields,
        *,
        model_type: str,
        rope: RopeConfig,
        moe: MoEConfig,
        moe_layers: frozenset[int],
        num_nextn_predict_layers: int = 0,
        **own: Any,
    ) -> Self:
        """Read the keys that all families share. The arguments are read by the family; `own` are its own fields."""
        activation = fields.word("hidden_act", default="silu")
        if activation not in SILU:
            raise fields.unsupported(f"hidden_act {activation!r} is not supported; supported is silu")
        return cls(
            model_type=model_type,
            vocab_size=fields.dimension("vocab_size"),
            hidden_size=fields.dimension("hidden_size"),
            intermediate_size=fields.dimension("intermediate_size"),
            num_hidden_layers=fields.dimension("num_hidden_layers"),
            max_position_embeddings=fields.dimension("max_position_embeddings"),
            rms_norm_eps=fields.number("rms_norm_eps", default=1e-6, above=0),
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
            rope=rope,
            moe=moe,
            moe_layers=moe_layers,
            num_nextn_predict_layers=num_nextn_predict_layers,
            **own,
        )

    @property
    def context(self) -> Context:
        """The number of positions that a request may use."""
        return Context.of(self.max_position_embeddings, self.rope)
