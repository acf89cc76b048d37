"""Qwen3-MoE."""

KNOWN_BY = "Qwen3-30B-A3B, 235B-A22B, Qwen3-Coder, Qwen3-VL-30B-A3B, 235B-A22B"

ALIASES = ("qwen3_vl_moe", "qwen3_vl_moe_text")

YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
"""The original context is shorter than prompt and answer together."""

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "max_position_embeddings": 512,
}

VARIANTS = {
    "with yarn": {"rope_parameters": YARN},
    "with yarn of other betas": {
        "rope_parameters": YARN | {"factor": 4.0, "rope_theta": 1e6, "beta_fast": 24, "beta_slow": 3}
    },
    "with yarn of a given temperature": {"rope_parameters": YARN | {"attention_factor": 1.3}},
    "with linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
    "with one key-value head": {"num_key_value_heads": 1, "norm_topk_prob": False},
    "with a key-value head each": {"num_key_value_heads": 4, "head_dim": 32},
    "with dense layers by name": {"mlp_only_layers": [0, 2]},
    "with dense layers by step": {"decoder_sparse_step": 2, "num_hidden_layers": 5},
    "with tied embeddings": {"tie_word_embeddings": True},
    "with attention biases": {"attention_bias": True},
    "with another eps": {"rms_norm_eps": 1e-2},
}

HUB_NAMES = {"num_local_experts": "num_experts"}
