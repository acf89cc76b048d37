"""DeepSeek-V2: as V2-Lite, without q_lora and groups."""

KNOWN_BY = "DeepSeek-V2, V2-Lite, DeepSeek-Coder-V2"

YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 40.0, "original_max_position_embeddings": 64}

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
}

VARIANTS = {
    "without yarn": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "with groups, as V2": {
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 16.0,
        "q_lora_rank": 64,
    },
}

HUB_LACKS = ("head_dim", "qk_head_dim", "mlp_bias")
HUB_ONLY = {"scoring_func": "softmax", "moe_layer_freq": 1, "norm_topk_prob": False}
