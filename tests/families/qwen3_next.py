"""Qwen3-Next."""

KNOWN_BY = "Qwen3-Next-80B-A3B, Qwen3-Coder-Next"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 512,
}

VARIANTS = {
    "with heads of other widths": {"linear_key_head_dim": 16, "linear_num_value_heads": 2, "linear_conv_kernel_dim": 3},
    "with other layers": {"full_attention_interval": 2, "mlp_only_layers": [1]},
    "with raw weights": {"norm_topk_prob": False},
    "with tied embeddings": {"tie_word_embeddings": True},
    "with attention biases": {"attention_bias": True},
}

HUB_LACKS = ("layer_types",)
HUB_ONLY = {"full_attention_interval": 4}

MTP = "by a test of its own"
