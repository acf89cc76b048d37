"""MiniMax-M2."""

KNOWN_BY = "MiniMax-M2, M2.1, M2.5"

ALIASES = ("minimax",)

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
}

VARIANTS = {
    "rotated whole": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
}

HUB_ONLY = {"rotary_dim": 32, "use_qk_norm": True, "scoring_func": "sigmoid", "shared_intermediate_size": 0}
