"""Granite MoE."""

KNOWN_BY = "Granite-3.x-1B-A400M, 3B-A800M"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.1,
    "logits_scaling": 6.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}

VARIANTS = {
    "with an lm_head of its own": {"tie_word_embeddings": False, "attention_bias": True},
    "with raw scales": {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0},
}
