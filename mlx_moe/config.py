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
from mlx_moe.errors import CheckpointError
from mlx_moe.rope_config import RopeConfig

SILU = ("silu", "swish")
"""The two names of the activation of most families."""


@dataclass(frozen=True, slots=True)
class IndexerConfig:
    """The indexer of sparse attention, which chooses `topk` positions for each query. Source: arXiv 2512.02556."""

    n_heads: int
    head_dim: int
    topk: int
    interleaved: bool

    @classmethod
    def read(cls, fields: ConfigFields, *, default_heads: int, interleaved: bool) -> Self:
        """Read all of it; missing values get transformers' defaults. Raises CheckpointError."""
        return cls(
            n_heads=fields.dimension("index_n_heads", default=default_heads),
            head_dim=fields.dimension("index_head_dim", default=128),
            topk=fields.dimension("index_topk", default=2048),
            interleaved=interleaved,
        )


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
    indexer: IndexerConfig | None = None

    @classmethod
    def read(cls, fields: ConfigFields, **own: Any) -> Self:
        """Read all but the indexer, which the family reads. Raises CheckpointError."""
        return cls(
            num_attention_heads=fields.dimension("num_attention_heads"),
            q_lora_rank=fields.optional("q_lora_rank"),
            kv_lora_rank=fields.dimension("kv_lora_rank"),
            qk_nope_head_dim=fields.dimension("qk_nope_head_dim"),
            qk_rope_head_dim=fields.dimension("qk_rope_head_dim", minimum=2),
            v_head_dim=fields.dimension("v_head_dim"),
            attention_bias=fields.flag("attention_bias", default=False),
            **own,
        )

    @property
    def latent_width(self) -> int:
        """Numbers of a position's latent, and of the part of its key that is rotated."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def kv_width(self) -> int:
        """Numbers that one position adds to the KV cache of one layer."""
        return self.latent_width + (0 if self.indexer is None else self.indexer.head_dim)


@dataclass(frozen=True, slots=True)
class GQAConfig:
    """Grouped-query attention, with RMSNorm over queries and keys when `qk_norm`.

    The norm goes over each head, or over all heads together when `norm_all_heads`. With `attention_bias` queries, keys
    and values have a bias, and with `output_bias` too the result. Numbers beyond `clip_qkv` are clipped. With an
    `output_gate`, q_proj has two halves for each head: its query, and a gate whose sigmoid scales its result.
    With `sinks`, each head has a learned score that takes part in the softmax and has no value. Scores are multiplied
    by `scale`, by default head_dim^-0.5.
    """

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qk_norm: bool
    attention_bias: bool
    output_bias: bool = True
    norm_all_heads: bool = False
    clip_qkv: float | None = None
    output_gate: bool = False
    sinks: bool = False
    scale: float | None = None

    @classmethod
    def read(
        cls,
        fields: ConfigFields,
        *,
        default_kv_heads: int | None = None,
        default_head_dim: int | None = None,
        **own: Any,
    ) -> Self:
        """Read the heads; `own` are read by the family. Raises CheckpointError."""
        heads = fields.dimension("num_attention_heads")
        kv_heads = fields.optional("num_key_value_heads", default=default_kv_heads) or heads
        if heads % kv_heads:
            raise CheckpointError(f"config.json: {heads} attention heads cannot share {kv_heads} key-value heads")
        head_dim = fields.optional("head_dim", default=default_head_dim) or max(
            1, fields.dimension("hidden_size") // heads
        )
        return cls(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, **own)

    @property
    def kv_width(self) -> int:
        """Numbers that one position adds to the KV cache of one layer."""
        return 2 * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class DeltaNetConfig:
    """Gated DeltaNet: a state of `key_head_dim` x `value_head_dim` for each value head. Source: arXiv 2412.06464.

    Consecutive value heads share a key head. A causal convolution goes over queries, keys and values first.
    """

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel_dim: int

    @classmethod
    def read(cls, fields: ConfigFields) -> Self:
        """Read all of it; missing values get transformers' defaults. Raises CheckpointError."""
        config = cls(
            num_key_heads=fields.dimension("linear_num_key_heads", default=16),
            num_value_heads=fields.dimension("linear_num_value_heads", default=32),
            key_head_dim=fields.dimension("linear_key_head_dim", default=128),
            value_head_dim=fields.dimension("linear_value_head_dim", default=128),
            conv_kernel_dim=fields.dimension("linear_conv_kernel_dim", default=4, minimum=2),
        )
        if config.num_value_heads % config.num_key_heads:
            raise CheckpointError(
                f"config.json: {config.num_value_heads} value heads cannot share {config.num_key_heads} key heads"
            )
        return config

    @property
    def key_width(self) -> int:
        """Numbers of the keys of all heads, and of their queries."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_width(self) -> int:
        """Numbers of the values of all heads."""
        return self.num_value_heads * self.value_head_dim

    @property
    def conv_width(self) -> int:
        """Numbers of queries, keys and values together."""
        return 2 * self.key_width + self.value_width


@dataclass(frozen=True, slots=True)
class ChunkedConfig:
    """Attention within chunks of `chunk_size` positions (None: of all); see ChunkedAttention.

    With `l2_norm`, rotated queries and keys are normed without a weight. Queries that are not rotated grow by
    `attn_scale` with the logarithm of their position in steps of `floor_scale` (None: they do not).
    """

    chunk_size: int | None
    l2_norm: bool
    floor_scale: int | None
    attn_scale: float


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

    @classmethod
    def read(cls, fields: ConfigFields, **own: Any) -> Self:
        """Read the number of experts and of those chosen; `own` are read by the family. Raises CheckpointError."""
        moe = cls(
            n_routed_experts=fields.dimension(
                "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"
            ),
            num_experts_per_tok=fields.dimension("num_experts_per_tok", "moe_k"),
            **own,
        )
        group_size, rest = divmod(moe.n_routed_experts, moe.n_group)
        if rest or moe.topk_group > moe.n_group or moe.num_experts_per_tok > moe.topk_group * group_size:
            raise CheckpointError(
                f"config.json: {moe.num_experts_per_tok} experts a token cannot be chosen from {moe.topk_group} of "
                f"{moe.n_group} groups over {moe.n_routed_experts} experts"
            )
        return moe


NO_EXPERTS = MoEConfig(
    n_routed_experts=0,
    num_experts_per_tok=0,
    moe_intermediate_size=0,
    n_shared_experts=0,
    scoring_func="softmax",
    norm_topk_prob=False,
)
"""Of models without MoE layers."""


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """How a matrix is packed: `bits` a weight, one scale (affine: and one bias) per `group_size` inputs."""

    group_size: int
    bits: int
    mode: str = "affine"


@dataclass(frozen=True, slots=True)
class EndsConfig:
    """What is added to embedding, norms and lm_head in some families.

    Embeddings are multiplied by `embedding_multiplier`, logits divided by `logits_scaling`. With `norm_bias` the norms
    of layers and of their result are LayerNorms with a bias.
    """

    embedding_multiplier: float = 1.0
    logits_scaling: float = 1.0
    lm_head_bias: bool = False
    norm_bias: bool = False


NO_ADDITIONS = EndsConfig()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The values that all families have in common; each family adds its own, such as its attention.

    `moe_layers` has the indices of the layers with routed experts. A `sliding_window` of all layers, which have no mask
    for it, limits the context.
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
    ends: EndsConfig
    sliding_window: int | None

    @classmethod
    def read(
        cls,
        fields: ConfigFields,
        *,
        model_type: str,
        rope: RopeConfig,
        moe: MoEConfig = NO_EXPERTS,
        moe_layers: frozenset[int] = frozenset(),
        num_nextn_predict_layers: int = 0,
        ends: EndsConfig = NO_ADDITIONS,
        sliding_window: int | None = None,
        default_norm_eps: float = 1e-6,
        default_tied: bool = False,
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
            intermediate_size=fields.dimension("intermediate_size", "moe_intermediate_size"),
            num_hidden_layers=fields.dimension("num_hidden_layers"),
            max_position_embeddings=fields.dimension("max_position_embeddings"),
            rms_norm_eps=fields.number("rms_norm_eps", default=default_norm_eps, above=0),
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=default_tied),
            rope=rope,
            moe=moe,
            moe_layers=moe_layers,
            num_nextn_predict_layers=num_nextn_predict_layers,
            ends=ends,
            sliding_window=sliding_window,
            **own,
        )

    @property
    def context(self) -> Context:
        """The number of positions that a request may use."""
        return Context.of(self.max_position_embeddings, self.rope, self.sliding_window)


@dataclass(frozen=True, slots=True)
class LatentModelConfig(ModelConfig):
    """The configuration of a model with latent attention, alike in all layers."""

    attention: MLAConfig


@dataclass(frozen=True, slots=True)
class GroupedQueryModelConfig(ModelConfig):
    """The configuration of a model with grouped-query attention, alike in all layers."""

    attention: GQAConfig
