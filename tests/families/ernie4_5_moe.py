"""ERNIE 4.5."""

KNOWN_BY = "ERNIE-4.5-21B-A3B, 300B-A47B"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "moe_num_experts": 16,
    "moe_num_shared_experts": 2,
    "moe_k": 4,
    "max_position_embeddings": 512,
}

VARIANTS = {
    "with experts in some layers": {"moe_layer_start_index": 1, "moe_layer_end_index": 2, "moe_layer_interval": 2},
    "without shared experts": {"moe_num_shared_experts": 0},
    "with an lm_head of its own": {"tie_word_embeddings": False},
}

MLX_LM = False  # it drops the bias of the router
