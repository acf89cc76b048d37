"""Known models: published configurations of models that can be planned without their files.

Also what a name alone says about other models: which known one it may mean, and whether its family is unsupported.
Source: config.json of deepseek-ai/DeepSeek-V3, moonshotai/Kimi-K2-Instruct, Qwen/Qwen3-235B-A22B, Qwen/Qwen3-30B-A3B;
only the keys that the families read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "topk_method": "noaux_tc",
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "max_position_embeddings": 163840,
    "num_nextn_predict_layers": 1,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}

KIMI_K2: dict[str, Any] = DEEPSEEK_V3 | {
    "model_type": "kimi_k2",
    "vocab_size": 163840,
    "num_attention_heads": 64,
    "n_routed_experts": 384,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.827,
    "num_nextn_predict_layers": 0,
    "max_position_embeddings": 131072,
    "rope_theta": 50000,
    "rope_scaling": DEEPSEEK_V3["rope_scaling"] | {"factor": 32, "beta_fast": 1},
}

QWEN3_235B: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
}

QWEN3_30B: dict[str, Any] = QWEN3_235B | {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
}

KNOWN_MODELS: Mapping[str, Mapping[str, Any]] = {
    "deepseek-v3": DEEPSEEK_V3,
    "kimi-k2": KIMI_K2,
    "qwen3-235b-a22b": QWEN3_235B,
    "qwen3-30b-a3b": QWEN3_30B,
}

_UNSUPPORTED = re.compile(
    r"-distill-|^(?:deepseek-(?:coder-)?v2|deepseek-(?:v3\.2|v[4-9]|moe)|qwen(?:1\.5|2|2\.5)?-"
    r"|qwen3(?:\.5|-next|-vl|-omni|-coder-next|-(?:0\.6|1\.7|4|8|14|32)b)|kimi-(?:vl|linear|dev|k2\.5|k3)|glm-|gpt-oss"
    r"|mixtral|ministral|mistral|(?:meta-|code-?)?llama|gemma|phi-|olmo|minimax|ernie|hunyuan|granite|jamba|dbrx|grok|nemotron)"
)
"""Names of popular models whose families this version does not support."""


def unsupported(name: str) -> bool:
    """Whether a model's name or repo id is of an unsupported family."""
    return _UNSUPPORTED.search(_base(name)) is not None


def refusal(name: str) -> str:
    """Return the error message for a model of an unsupported family."""
    return f"{name} is of a family that this version does not run; it runs DeepSeek-V3, R1, V3.1, Kimi-K2 and Qwen3-MoE"


def suggestions(name: str) -> list[str]:
    """Return the known models that a name may mean, likeliest first."""
    base = _base(name)
    within = [known for known in KNOWN_MODELS if known in base or (len(base) > 2 and base in known)]
    return within or difflib.get_close_matches(base, KNOWN_MODELS, cutoff=0.55)


def _base(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].partition("@")[0].lower().replace("_", "-").replace(" ", "-")
