"""DeepSeek-V3.2: DeepSeek-V3 with sparse attention, to the positions that an indexer chooses.

Source: DeepSeek-V3.2, arXiv 2512.02556; transformers' `deepseek_v32` for the numbers.
"""

from __future__ import annotations

from mlx_moe.config import IndexerConfig, LatentModelConfig, MLAConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.errors import CheckpointError
from mlx_moe.families import deepseek_v3
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_by_type, read_mtp_layers, sigmoid_experts
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> LatentModelConfig:
    """Read a `deepseek_v32` config.json; missing values get transformers' defaults."""
    attention = sparse_attention(fields, IndexerConfig.read(fields, default_heads=64, interleaved=False))
    return LatentModelConfig.read(
        fields,
        model_type="deepseek_v32",
        attention=attention,
        rope=read_rope(fields, attention.qk_rope_head_dim, interleaved=True),
        moe=sigmoid_experts(fields, n_group=8, topk_group=4, routed_scaling_factor=2.5),
        moe_layers=layers_by_type(fields, default=3),
        num_nextn_predict_layers=read_mtp_layers(fields),
    )


def layer(config: LatentModelConfig, index: int) -> LayerSpec:
    """See Family."""
    return deepseek_v3.layer(config, index)


def sparse_attention(fields: ConfigFields, indexer: IndexerConfig) -> MLAConfig:
    """Read latent attention with an indexer. Raises CheckpointError."""
    attention = MLAConfig.read(fields, indexer=indexer)
    if attention.q_lora_rank is None:
        raise CheckpointError("config.json: q_lora_rank is missing; the indexer's queries are made of its latents")
    if indexer.head_dim < attention.qk_rope_head_dim:
        raise CheckpointError(
            f"config.json: index_head_dim {indexer.head_dim} is less than qk_rope_head_dim {attention.qk_rope_head_dim}"
        )
    return attention
