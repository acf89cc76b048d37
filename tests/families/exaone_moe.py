"""K-EXAONE."""

KNOWN_BY = "K-EXAONE-236B-A23B"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 16,
    "num_shared_experts": 1,
    "num_experts_per_tok": 4,
    "sliding_window": 24,
    "sliding_window_pattern": 2,
    "max_position_embeddings": 512,
}
"""The window is shorter than a prompt."""

VARIANTS = {
    "with groups": {"n_group": 4, "topk_group": 2},
    "with experts in some layers": {"mlp_layer_types": ["sparse", "dense", "sparse", "dense"]},
    "without windows": {"layer_types": 4 * ["full_attention"]},
}

HUB_ONLY = {"is_moe_layer": [False, True, True, True]}
