"""Phi-3.5-MoE: LayerNorms with biases, longrope, a router that chooses two experts one after the other.

Source: transformers' `phimoe`. Its rope changes beyond the original context, which is not supported. Published
checkpoints have the experts below `block_sparse_moe`, those in the layout of transformers' memory below `mlp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.parameter import Parameter, linear
from mlx_moe.config import EndsConfig, GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import GatedExpertsSpec, MoESpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.rope_config import read_rope

if TYPE_CHECKING:
    from mlx_moe.layers.sparse_mixer import SparseMixer
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class PhimoeConfig(GroupedQueryModelConfig):
    """The configuration of a `phimoe` model."""

    router_jitter_noise: float


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read a `phimoe` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(
        fields, default_kv_heads=8, qk_norm=False, attention_bias=fields.flag("attention_bias", default=False)
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=False,
    )
    if moe.num_experts_per_tok != 2:
        raise fields.unsupported(f"phimoe chooses 2 experts for each token, got {moe.num_experts_per_tok}")
    return PhimoeConfig.read(
        fields,
        model_type="phimoe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False, default_theta=1e6, longrope=True),
        moe=moe,
        moe_layers=frozenset(range(fields.dimension("num_hidden_layers"))),
        ends=EndsConfig(norm_bias=True, lm_head_bias=fields.flag("lm_head_bias", default=False)),
        sliding_window=fields.optional("sliding_window"),
        default_norm_eps=1e-5,
        router_jitter_noise=fields.number("router_jitter_noise", default=0.01, above=0),
    )


def layer(config: PhimoeConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, moe = f"model.layers.{index}", config.hidden_size, config.moe
    feed_forward = MoESpec(
        SparseMixerSpec(path, size, moe.n_routed_experts, config.router_jitter_noise),
        GatedExpertsSpec(f"{path}.block_sparse_moe", size, moe, names=("w1", "w3", "w2"), also=(f"{path}.mlp",)),
    )
    attention = grouped_query_attention(config, index)
    return LayerSpec(path, size, config.rms_norm_eps, attention, feed_forward, norm_bias=True)


@dataclass(frozen=True, slots=True)
class SparseMixerSpec:
    """The router of the layer at `path`."""

    path: str
    hidden_size: int
    n_experts: int
    jitter: float

    def parameters(self) -> list[Parameter]:
        """See RouterSpec."""
        also = (f"{self.path}.mlp.router",)
        return [linear(self._gate, self.n_experts, self.hidden_size, float32=True, also=also)]

    def build(self, loaded: LoadedParameters) -> SparseMixer:
        """See RouterSpec."""
        from mlx_moe.layers.sparse_mixer import SparseMixer

        return SparseMixer(loaded.linear(self._gate), self.jitter)

    @property
    def _gate(self) -> str:
        return f"{self.path}.block_sparse_moe.gate"
