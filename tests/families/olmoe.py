"""OLMoE."""

KNOWN_BY = "OLMoE-1B-7B"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 512,
}

VARIANTS = {
    "with clipped numbers": {"clip_qkv": 0.5, "num_key_value_heads": 2},
    "with weights that add up": {"norm_topk_prob": True, "attention_bias": True},
}
