"""Granite MoE: scaled embeddings, residuals, attention scores and logits; softmax over the chosen experts' logits.

Source: transformers' `granitemoe`. Published checkpoints have gates and ups of all experts in one `input_linear`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.config import EndsConfig, GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import GatedExpertsSpec, MoESpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec
from mlx_moe.rope_config import read_rope

STACKS = (("input_linear.weight", "output_linear.weight"), ("experts.gate_up_proj", "experts.down_proj"))
"""Where originals, and those in the layout of transformers' memory, stack their experts."""


@dataclass(frozen=True, slots=True)
class GraniteMoeConfig(GroupedQueryModelConfig):
    """The configuration of a `granitemoe` model."""

    residual_multiplier: float


def read_config(fields: ConfigFields) -> GraniteMoeConfig:
    """Read a `granitemoe` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(
        fields,
        qk_norm=False,
        attention_bias=fields.flag("attention_bias", default=False),
        scale=fields.number("attention_multiplier", default=1.0, above=0),
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=True,  # equal to a softmax over the chosen logits
    )
    return GraniteMoeConfig.read(
        fields,
        model_type="granitemoe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=moe,
        moe_layers=frozenset(range(fields.dimension("num_hidden_layers"))),
        ends=EndsConfig(
            embedding_multiplier=fields.number("embedding_multiplier", default=1.0),
            logits_scaling=fields.number("logits_scaling", default=1.0, above=0),
        ),
        residual_multiplier=fields.number("residual_multiplier", default=1.0),
    )


def layer(config: GraniteMoeConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, moe = f"model.layers.{index}", config.hidden_size, config.moe
    block = f"{path}.block_sparse_moe"
    return LayerSpec(
        path,
        size,
        config.rms_norm_eps,
        grouped_query_attention(config, index),
        MoESpec(
            TopKRouterSpec(block, size, moe, gate="router.layer", also_gates=("router",)),
            GatedExpertsSpec(block, size, moe, stacks=STACKS),
        ),
        residual_multiplier=config.residual_multiplier,
    )
