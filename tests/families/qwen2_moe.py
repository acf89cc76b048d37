"""Qwen2-MoE."""

KNOWN_BY = "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 512,
}

VARIANTS = {
    "with weights that add up": {"norm_topk_prob": True},
    "with dense layers, without biases": {"mlp_only_layers": [1], "qkv_bias": False},
}
