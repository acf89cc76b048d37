"""Phi-3.5-MoE."""

KNOWN_BY = "Phi-3.5-MoE"

FACTORS = [1.0 + 0.05 * pair for pair in range(16)]

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "router_jitter_noise": 0.1,
    "attention_bias": True,
    "lm_head_bias": True,
    "max_position_embeddings": 2048,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": FACTORS,
        "long_factor": [2 * factor for factor in FACTORS],
        "short_mscale": 1.2,
        "long_mscale": 1.3,
        "original_max_position_embeddings": 512,
    },
}

VARIANTS = {
    "with plain rope": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "max_position_embeddings": 512,
    },
    "with narrow bands": {"router_jitter_noise": 0.01, "attention_bias": False, "lm_head_bias": False},
}
