"""GLM-5 and 5.1: the layers of DeepSeek-V3.2 in another size, with an indexer whose rotary embedding is interleaved.

Source: transformers' `glm_moe_dsa`. Later ones, whose layers share the choice of an indexer, are not supported.
"""

from __future__ import annotations

from mlx_moe.config import IndexerConfig, LatentModelConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families import deepseek_v3
from mlx_moe.families.deepseek_v32 import sparse_attention
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_by_type, read_mtp_layers, sigmoid_experts
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> LatentModelConfig:
    """Read a `glm_moe_dsa` config.json; missing values get transformers' defaults."""
    shares = set(fields.words("indexer_types")) - {"full"}
    if shares or fields.has("index_topk_pattern") or fields.dimension("index_topk_freq", default=1) > 1:
        raise fields.unsupported("layers that share the choice of another layer's indexer are not supported")
    indexer = IndexerConfig.read(
        fields, default_heads=32, interleaved=fields.flag("indexer_rope_interleave", default=True)
    )
    attention = sparse_attention(fields, indexer)
    return LatentModelConfig.read(
        fields,
        model_type="glm_moe_dsa",
        attention=attention,
        rope=read_rope(fields, attention.qk_rope_head_dim, interleaved=True),
        moe=sigmoid_experts(fields, routed_scaling_factor=2.5),
        moe_layers=layers_by_type(fields, default=3),
        num_nextn_predict_layers=read_mtp_layers(fields),
        default_norm_eps=1e-5,
    )


def layer(config: LatentModelConfig, index: int) -> LayerSpec:
    """See Family."""
    return deepseek_v3.layer(config, index)
