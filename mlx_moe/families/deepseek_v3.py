"""DeepSeek-V3, R1, V3.1 and Kimi-K2: latent attention, sigmoid router with groups, shared experts, MTP.

Source: DeepSeek-V3 technical report, arXiv 2412.19437; transformers' `deepseek_v3` for the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.config import MLAConfig, ModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.errors import CheckpointError
from mlx_moe.families.attention import LatentAttentionSpec
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.rope_config import read_rope


@dataclass(frozen=True, slots=True)
class DeepseekV3Config(ModelConfig):
    """The configuration of a `deepseek_v3` model."""

    attention: MLAConfig


def read_config(fields: ConfigFields) -> DeepseekV3Config:
    """Read a `deepseek_v3` config.json; missing values get transformers' defaults."""
    if fields.word("scoring_func", "sigmoid") != "sigmoid" or fields.word("topk_method", "noaux_tc") != "noaux_tc":
        raise fields.unsupported("deepseek_v3 routes with scoring_func sigmoid and topk_method noaux_tc only")
    attention = MLAConfig(
        num_attention_heads=fields.dimension("num_attention_heads"),
        q_lora_rank=fields.optional("q_lora_rank"),
        kv_lora_rank=fields.dimension("kv_lora_rank"),
        qk_nope_head_dim=fields.dimension("qk_nope_head_dim"),
        qk_rope_head_dim=fields.dimension("qk_rope_head_dim", minimum=2),
        v_head_dim=fields.dimension("v_head_dim"),
        attention_bias=fields.flag("attention_bias", default=False),
    )
    n_group = fields.optional("n_group", default=8) or 1
    moe = MoEConfig(
        n_routed_experts=fields.dimension("n_routed_experts", "num_local_experts"),
        num_experts_per_tok=fields.dimension("num_experts_per_tok"),
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=fields.optional("n_shared_experts", default=1) or 0,
        scoring_func="sigmoid",
        norm_topk_prob=fields.flag("norm_topk_prob", default=True),
        routed_scaling_factor=fields.number("routed_scaling_factor", default=2.5),
        n_group=n_group,
        topk_group=fields.optional("topk_group", default=min(4, n_group)) or n_group,
        correction_bias=True,
    )
    group_size, rest = divmod(moe.n_routed_experts, moe.n_group)
    if rest or moe.topk_group > moe.n_group or moe.num_experts_per_tok > moe.topk_group * group_size:
        raise CheckpointError(
            f"config.json: {moe.num_experts_per_tok} experts a token cannot be chosen from {moe.topk_group} of "
            f"{moe.n_group} groups over {moe.n_routed_experts} experts"
        )
    first_dense = fields.optional("first_k_dense_replace", default=3) or 0
    frequency = fields.dimension("moe_layer_freq", default=1)
    mtp_layers = fields.optional("num_nextn_predict_layers", "num_mtp_layers") or 0
    return DeepseekV3Config.read(
        fields,
        model_type="deepseek_v3",
        attention=attention,
        rope=read_rope(fields, attention.qk_rope_head_dim, fields.flag("rope_interleave", default=True)),
        moe=moe,
        moe_layers=frozenset(
            layer
            for layer in range(fields.dimension("num_hidden_layers") + mtp_layers)
            if layer >= first_dense and layer % frequency == 0
        ),
        num_nextn_predict_layers=mtp_layers,
    )


def layer(config: DeepseekV3Config, index: int) -> LayerSpec:
    """See Family."""
    path = f"model.layers.{index}"
    attention = LatentAttentionSpec(f"{path}.self_attn", config.hidden_size, config.attention, config.rope)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, default_feed_forward(config, index))
