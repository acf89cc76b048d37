"""Llama 4."""

KNOWN_BY = "Llama 4 Scout, Maverick (text)"

ALIASES = ("llama4",)

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 64,
    "intermediate_size_mlp": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "no_rope_layers": [1, 1, 0, 1],
    "attention_chunk_size": 24,
    "floor_scale": 32,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
}
"""Chunks and steps of the temperature are shorter than a prompt."""

VARIANTS = {
    "with experts in every other layer": {"interleave_moe_layer_step": 2, "use_qk_norm": False},
    "without chunks": {"attention_chunk_size": None, "attn_temperature_tuning": False},
    "with rope as in Llama 3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}

MLX_LM = False  # its model of that name is another
