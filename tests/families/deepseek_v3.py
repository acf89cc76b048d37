"""DeepSeek-V3."""

KNOWN_BY = "DeepSeek-V3, R1, V3.1, Kimi-K2, Kimi-K2.5 (text)"

ALIASES = ("kimi_k2", "kimi_k25")

YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
"""The original context is shorter than prompt and answer together."""

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "q_lora_rank": 64,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 48,
    "max_position_embeddings": 512,
    "num_nextn_predict_layers": 0,
}
"""Absorbed and expanded attention break even at 58 positions."""

VARIANTS = {
    "with yarn": {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    "with yarn of two mscales": {
        "rope_parameters": YARN
        | {"factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.707, "beta_fast": 16, "beta_slow": 2}
    },
    "with yarn without mscale": {"rope_parameters": YARN | {"original_max_position_embeddings": 32}},
    "without q_lora": {"q_lora_rank": None},
    "without groups, as Kimi-K2": {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827},
    "with all experts of the chosen groups": {"num_experts_per_tok": 8},
    "with one expert a token": {"num_experts_per_tok": 1},
    "with raw weights": {"norm_topk_prob": False},
    "without dense layers": {"first_k_dense_replace": 0, "n_shared_experts": 2},
    "with two dense layers": {"first_k_dense_replace": 2, "num_hidden_layers": 5},
    "with tied embeddings": {"tie_word_embeddings": True},
    "with attention biases": {"attention_bias": True},
    "with rope in halves": {"rope_interleave": False},
    "with another eps": {"rms_norm_eps": 1e-2},
}

HUB_LACKS = ("head_dim", "qk_head_dim", "rope_interleave")
HUB_ONLY = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1, "ep_size": 1}

MTP: dict[str, int] = {}
