"""dots.llm1."""

KNOWN_BY = "dots.llm1"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "sliding_window": None,
    "max_window_layers": 3,
    "max_position_embeddings": 512,
}

VARIANTS = {
    "with windows": {"sliding_window": 24, "max_window_layers": 1},
    "with groups": {"n_group": 4, "topk_group": 2},
    "with attention biases": {"attention_bias": True},
}
