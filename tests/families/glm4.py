"""GLM-4."""

KNOWN_BY = "GLM-4-9B-0414, GLM-4-32B-0414"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "head_dim": 32,
}

VARIANTS = {"without biases": {"attention_bias": False}}
