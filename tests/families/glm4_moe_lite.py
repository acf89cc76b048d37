"""GLM-4-MoE-Lite."""

KNOWN_BY = "GLM-4.7-Flash"

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 48,
    "max_position_embeddings": 512,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}

VARIANTS = {"with all layers sparse": {"mlp_layer_types": ["sparse"] * 3}}

HUB_LACKS = ("mlp_layer_types", "qk_head_dim")
HUB_ONLY = {
    "first_k_dense_replace": 1,
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 0,
    "num_mtp_layers": 1,  # this and the next for transformers' MtpModel: its configuration of the family lacks them
    "mtp_mlp_layer_types": ["sparse"],
}

MTP = {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
