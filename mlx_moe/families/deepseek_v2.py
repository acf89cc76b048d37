"""DeepSeek-V2 and V2-Lite: latent attention, softmax router, with groups in V2, and shared experts.

Source: DeepSeek-V2, arXiv 2405.04434; transformers' `deepseek_v2` for the numbers.
"""

from __future__ import annotations

from mlx_moe.config import LatentModelConfig, MLAConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import latent_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_after_dense
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> LatentModelConfig:
    """Read a `deepseek_v2` config.json; missing values get transformers' defaults."""
    if fields.word("scoring_func", "softmax") != "softmax":
        raise fields.unsupported("deepseek_v2 routes with scoring_func softmax only")
    attention = MLAConfig.read(fields)
    return LatentModelConfig.read(
        fields,
        model_type="deepseek_v2",
        attention=attention,
        rope=read_rope(fields, attention.qk_rope_head_dim, interleaved=True),
        moe=_read_experts(fields),
        moe_layers=layers_after_dense(fields, default=0),
    )


def layer(config: LatentModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, latent_attention(config, index), feed_forward)


def _read_experts(fields: ConfigFields) -> MoEConfig:
    """Read the experts. norm_topk_prob is ignored, as in transformers: no published model sets it."""
    method = fields.word("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise fields.unsupported(f"topk_method {method!r} is not supported for deepseek_v2")
    by_group = method == "group_limited_greedy"
    return MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=fields.optional("n_shared_experts", default=2) or 0,
        scoring_func="softmax",
        norm_topk_prob=False,
        routed_scaling_factor=fields.number("routed_scaling_factor", default=1.0),
        n_group=fields.dimension("n_group") if by_group else 1,
        topk_group=fields.dimension("topk_group") if by_group else 1,
        scores_of_group=1,
    )
