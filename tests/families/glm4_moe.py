"""GLM-4-MoE."""

KNOWN_BY = "GLM-4.5, GLM-4.5-Air, GLM-4.6, GLM-4.7"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "use_qk_norm": True,
    "attention_bias": True,
    "max_position_embeddings": 512,
    "num_mtp_layers": 0,
}

VARIANTS = {
    "without norms and biases, as GLM-4.5-Air": {"use_qk_norm": False, "attention_bias": False},
    "with groups": {"n_group": 4, "topk_group": 2},
}

HUB_NAMES = {"num_mtp_layers": "num_nextn_predict_layers"}

MTP: dict[str, int] = {}
