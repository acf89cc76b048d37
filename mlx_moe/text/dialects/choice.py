"""The choice of a checkpoint's dialect: the one place that says which model speaks which.

1. The chat template: it writes earlier calls in the model's dialect, so it contains the tags. It has the last word.
2. The `model_type` of config.json, where the template does not know calls or there is none.
3. The added tokens.
4. Otherwise the model speaks plainly: a thought between its markers, no calls of its own.

The markers of a thought are chosen apart from that, by `ThoughtMarkers.find`.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import replace

from mlx_moe.text.dialects.deepseek import DEEPSEEK, DEEPSEEK_V31, DEEPSEEK_V32, DSML
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.glm import GLM
from mlx_moe.text.dialects.harmony import HARMONY
from mlx_moe.text.dialects.kimi import KIMI
from mlx_moe.text.dialects.llama import LLAMA
from mlx_moe.text.dialects.minimax import MINIMAX
from mlx_moe.text.dialects.plain import PLAIN
from mlx_moe.text.dialects.qwen import QWEN
from mlx_moe.text.thought import ThoughtMarkers

DIALECTS = {
    dialect.name: dialect
    for dialect in (DEEPSEEK, DEEPSEEK_V31, DEEPSEEK_V32, GLM, HARMONY, KIMI, LLAMA, MINIMAX, PLAIN, QWEN)
}

_SIGNS = (
    (("<|channel|>",), HARMONY),
    (("<|tool_calls_section_begin|>",), KIMI),
    ((DSML,), DEEPSEEK_V32),
    (("<｜tool▁calls▁begin｜>", "```json"), DEEPSEEK),
    (("<｜tool▁calls▁begin｜>",), DEEPSEEK_V31),
    (("<minimax:tool_call>",), MINIMAX),
    (("<arg_key>",), GLM),
    (("<tool_call>",), QWEN),
    (("<|python_tag|>",), LLAMA),
    (('"parameters": dictionary of argument name',), LLAMA),
)
"""Texts that together only templates of the dialect contain, or added tokens of its vocabularies. The first decides."""

_MODEL_TYPES = {
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "deepseek_v32": DEEPSEEK_V32,
    "glm4_moe": GLM,
    "glm4_moe_lite": GLM,
    "glm_moe_dsa": GLM,
    "gpt_oss": HARMONY,
    "kimi_k2": KIMI,
    "kimi_k25": KIMI,
    "kimi_linear": KIMI,
    "llama": LLAMA,
    "llama4": LLAMA,
    "llama4_text": LLAMA,
    "minimax": MINIMAX,
    "minimax_m2": MINIMAX,
    "qwen2_moe": QWEN,
    "qwen3": QWEN,
    "qwen3_5_moe": QWEN,
    "qwen3_moe": QWEN,
    "qwen3_next": QWEN,
}


def choose(template: str, model_type: str, added_tokens: Collection[str]) -> Dialect:
    """Return the dialect of a checkpoint, by its chat template ("" if it has none), model type and added tokens."""
    dialect = _by_sign(template) or _MODEL_TYPES.get(model_type) or _by_sign(added_tokens) or PLAIN
    return replace(dialect, markers=ThoughtMarkers.find(added_tokens, template))


def named(name: str, markers: ThoughtMarkers) -> Dialect:
    """Return the dialect that was called so when an answer was saved or sent; an unknown one is read as plain."""
    return replace(DIALECTS.get(name, PLAIN), markers=markers)


def _by_sign(found: Container[str]) -> Dialect | None:
    return next((dialect for signs, dialect in _SIGNS if all(sign in found for sign in signs)), None)
