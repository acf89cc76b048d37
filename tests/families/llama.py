"""Llama."""

KNOWN_BY = "Llama 2 to 3.3 and its small drafters"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

VARIANTS = {"with rope as in Llama 3": {"rope_parameters": LLAMA3}, "with biases": {"attention_bias": True}}
