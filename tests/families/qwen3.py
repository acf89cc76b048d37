"""Qwen3."""

KNOWN_BY = "Qwen3-0.6B to 32B"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "head_dim": 32,
    "tie_word_embeddings": True,
}

VARIANTS = {"with biases": {"attention_bias": True, "tie_word_embeddings": False}}
