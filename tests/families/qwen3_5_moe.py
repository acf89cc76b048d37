"""Qwen3.5-MoE, its text part."""

from tests.families import qwen3_next

KNOWN_BY = "Qwen3.5-35B-A3B, 122B-A10B, 397B-A17B, Qwen3.6-35B-A3B (text)"

ALIASES = ("qwen3_5_moe_text",)

_OTHERS = ("intermediate_size",)

CONFIG = {"text_config": {key: value for key, value in qwen3_next.CONFIG.items() if key not in _OTHERS}}

MTP = "by a test of its own"
MLX_LM = False  # transformers saves the text part alone
