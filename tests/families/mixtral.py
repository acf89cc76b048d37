"""Mixtral."""

KNOWN_BY = "Mixtral 8x7B, 8x22B"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "sliding_window": None,
}

VARIANTS = {"with tied embeddings and wide heads": {"tie_word_embeddings": True, "head_dim": 32}}
