"""Attention specs that families share: latent, and grouped-query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.parameter import Parameter, latent_projections, linear, vector
from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, LatentModelConfig, MLAConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.layers.cache_costs import CacheCosts, window_rows
from mlx_moe.rope_config import RopeConfig

if TYPE_CHECKING:
    from mlx_moe.layers.grouped_attention import GroupedQueryAttention
    from mlx_moe.layers.latent_attention import LatentAttention
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class LatentAttentionSpec:
    """Multi-head latent attention with parameters below `path`."""

    path: str
    hidden_size: int
    config: MLAConfig
    rope: RopeConfig

    is_latent = True

    @property
    def flops(self) -> int:
        """See AttentionSpec. Counted for the expanded form, in which prompts are computed."""
        a = self.config
        index = 0 if a.indexer is None else a.indexer.n_heads * a.indexer.head_dim
        return 2 * (a.num_attention_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim + a.v_head_dim) + index)

    def parameters(self) -> list[Parameter]:
        """See AttentionSpec."""
        path, a, hidden_size = self.path, self.config, self.hidden_size
        q_out = a.num_attention_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim)
        parameters = [
            linear(f"{path}.kv_a_proj_with_mqa", a.latent_width, hidden_size),
            vector(f"{path}.kv_a_layernorm.weight", a.kv_lora_rank),
            *latent_projections(path, a.num_attention_heads, a.qk_nope_head_dim, a.v_head_dim, a.kv_lora_rank),
            linear(f"{path}.o_proj", hidden_size, a.num_attention_heads * a.v_head_dim),
        ]
        if a.q_lora_rank is None:
            parameters.append(linear(f"{path}.q_proj", q_out, hidden_size))
        else:
            parameters += [
                linear(f"{path}.q_a_proj", a.q_lora_rank, hidden_size),
                vector(f"{path}.q_a_layernorm.weight", a.q_lora_rank),
                linear(f"{path}.q_b_proj", q_out, a.q_lora_rank),
            ]
        if a.attention_bias:
            parameters += [
                vector(f"{path}.kv_a_proj_with_mqa.bias", a.latent_width),
                vector(f"{path}.o_proj.bias", hidden_size),
            ]
            if a.q_lora_rank is not None:
                parameters.append(vector(f"{path}.q_a_proj.bias", a.q_lora_rank))
        return parameters + self._indexer_parameters()

    def build(self, loaded: LoadedParameters) -> LatentAttention:
        """See AttentionSpec."""
        from mlx_moe.layers.latent_attention import LatentAttention

        return LatentAttention(self.config, self.rope, loaded.scope(self.path))

    def cache_costs(self, float_bytes: int) -> CacheCosts:
        """See AttentionSpec."""
        return CacheCosts(bytes_per_position=float_bytes * self.config.kv_width)

    def _indexer_parameters(self) -> list[Parameter]:
        index, q_lora_rank = self.config.indexer, self.config.q_lora_rank
        if index is None or q_lora_rank is None:
            return []
        path = f"{self.path}.indexer"
        return [
            linear(f"{path}.wq_b", index.n_heads * index.head_dim, q_lora_rank),
            linear(f"{path}.wk", index.head_dim, self.hidden_size),
            vector(f"{path}.k_norm.weight", index.head_dim),
            vector(f"{path}.k_norm.bias", index.head_dim),
            linear(f"{path}.weights_proj", index.n_heads, self.hidden_size),
        ]


@dataclass(frozen=True, slots=True)
class GroupedQueryAttentionSpec:
    """Grouped-query attention with parameters below `path`; `window` is the number of positions that one sees.

    Without `rope` nothing is rotated.
    """

    path: str
    hidden_size: int
    config: GQAConfig
    rope: RopeConfig | None
    norm_eps: float
    window: int | None = None

    is_latent = False

    @property
    def flops(self) -> int:
        """See AttentionSpec."""
        return 2 * self.config.num_attention_heads * 2 * self.config.head_dim

    def parameters(self) -> list[Parameter]:
        """See AttentionSpec."""
        path, a = self.path, self.config
        q_out, kv_out = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
        q_proj_out = 2 * q_out if a.output_gate else q_out
        out_features = {"q_proj": q_proj_out, "k_proj": kv_out, "v_proj": kv_out, "o_proj": self.hidden_size}
        parameters = [
            linear(f"{path}.{name}", size, q_out if name == "o_proj" else self.hidden_size)
            for name, size in out_features.items()
        ]
        if a.attention_bias:
            biased = [name for name in out_features if name != "o_proj" or a.output_bias]
            parameters += [vector(f"{path}.{name}.bias", out_features[name]) for name in biased]
        if a.qk_norm:
            sizes = (q_out, kv_out) if a.norm_all_heads else (a.head_dim, a.head_dim)
            norms = zip(("q_norm", "k_norm"), sizes, strict=True)
            parameters += [vector(f"{path}.{name}.weight", size) for name, size in norms]
        if a.sinks:
            parameters.append(vector(f"{path}.sinks", a.num_attention_heads))
        return parameters

    def build(self, loaded: LoadedParameters) -> GroupedQueryAttention:
        """See AttentionSpec."""
        from mlx_moe.layers.grouped_attention import GroupedQueryAttention

        return GroupedQueryAttention(self.config, self.rope, self.norm_eps, loaded.scope(self.path), self.window)

    def cache_costs(self, float_bytes: int) -> CacheCosts:
        """See AttentionSpec."""
        position_bytes = float_bytes * self.config.kv_width
        if self.window is not None:
            return CacheCosts(windows=((window_rows(self.window), position_bytes),))
        return CacheCosts(bytes_per_position=position_bytes)


def latent_attention(config: LatentModelConfig, index: int) -> LatentAttentionSpec:
    """Return the attention of layer `index`, with the parameter names that most families use."""
    return LatentAttentionSpec(f"model.layers.{index}.self_attn", config.hidden_size, config.attention, config.rope)


def grouped_query_attention(
    config: GroupedQueryModelConfig, index: int, window: int | None = None
) -> GroupedQueryAttentionSpec:
    """Return the attention of layer `index`, with the parameter names that most families use."""
    path = f"model.layers.{index}.self_attn"
    return GroupedQueryAttentionSpec(
        path, config.hidden_size, config.attention, config.rope, config.rms_norm_eps, window
    )


def require_full_attention(fields: ConfigFields) -> None:
    """Refuse use_sliding_window. Raises UnsupportedModelError."""
    if fields.flag("use_sliding_window", default=False):
        raise fields.unsupported("use_sliding_window is not supported")
