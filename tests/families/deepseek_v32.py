"""DeepSeek-V3.2."""

from tests.families import deepseek_v3

KNOWN_BY = "DeepSeek-V3.2"

CONFIG = {
    **{key: value for key, value in deepseek_v3.CONFIG.items() if key != "num_nextn_predict_layers"},
    "index_n_heads": 16,
    "index_head_dim": 32,
    "index_topk": 24,
}
"""Prompts are longer than what the indexer chooses. Fewer heads give many scores of 0: transformers takes any."""

VARIANTS = {
    "with yarn": {"rope_parameters": deepseek_v3.YARN | {"factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0}},
    "with one position": {"index_topk": 1},
    "with another eps": {"rms_norm_eps": 1e-2},
}

HUB_LACKS = ("head_dim", "qk_head_dim", "mlp_layer_types", "layer_types", "mlp_bias")
HUB_ONLY = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1, "ep_size": 1}
