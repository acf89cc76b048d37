"""Known models: the short names that people type, and what a name alone says about a model.

One table: name, family, the original's repository, ready 4-bit conversions for MLX, and the published configuration.
Sources of the conversions, 2026-11-26: the model cards of exo (exo-explore/exo, resources/inference_model_cards: V3.1,
V3.2, GLM-5, Kimi-K2-Instruct, Kimi-K2-Thinking, Kimi-K2.5, Qwen3-235B-A22B-Instruct-2507, Qwen3-30B-A3B,
Qwen3-Coder-480B, Qwen3-Next, Qwen3-Coder-Next, Qwen3.5, Qwen3.6) and its earlier tables (V3, R1, R1-0528); mlx-lm's
measurements (Qwen3-30B-A3B-Instruct-2507, Qwen3-235B-A22B-Thinking-2507); Apple's WWDC 2025, session 298 (V3-0324);
xinference's table (Qwen3-235B-A22B); published measurements of others (Qwen3-30B-A3B-Thinking-2507, Qwen3-Coder-30B,
MiniMax-M2.1 and M2.5). This version has loaded none of them yet.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_moe.published_configs import (
    DEEPSEEK_V2_LITE,
    DEEPSEEK_V3,
    DEEPSEEK_V32,
    GLM_4_5_AIR,
    GLM_4_6,
    GLM_5,
    GPT_OSS_20B,
    GPT_OSS_120B,
    KIMI_K2,
    KIMI_K2_0905,
    KIMI_K2_5,
    MINIMAX_M2,
    MIXTRAL_8X7B,
    QWEN3_5_35B,
    QWEN3_5_122B,
    QWEN3_5_397B,
    QWEN3_30B,
    QWEN3_30B_2507,
    QWEN3_235B,
    QWEN3_235B_2507,
    QWEN3_CODER_480B,
    QWEN3_CODER_NEXT,
    QWEN3_NEXT_80B,
)

RUNS = (
    "DeepSeek-V2 to V3.2, R1, Kimi-K2, Qwen2 to Qwen3.5, GLM-4 and 5, Mixtral, OLMoE, ERNIE 4.5, dots.llm1, MiniMax, "
    "Granite MoE, K-EXAONE, Phi-3.5-MoE, Ling, gpt-oss, Llama 2 to 4 and Mistral"
)
"""The models that this version runs, for people."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that has a short name. `config` is empty if its family is not supported.

    `aliases` are further names that people type, with `-` for the `:` of a tag.
    """

    name: str
    family: str
    original: str
    conversions: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def repositories(self) -> tuple[str, ...]:
        """The repositories that have it, in the order in which local files are looked for: conversions first."""
        return (*self.conversions, self.original)

    @property
    def repository(self) -> str:
        """The repository that is downloaded: a conversion, which has about half the bytes, or the original."""
        return self.repositories[0]


def _known(
    name: str, original: str, *conversions: str, config: Mapping[str, Any], aliases: tuple[str, ...] = ()
) -> KnownModel:
    family = str(config["model_type"])
    repositories = tuple(f"mlx-community/{conversion}" for conversion in conversions)
    return KnownModel(name, family, original, repositories, aliases, config)


_TABLE = (
    _known(
        "deepseek-v2-lite",
        "deepseek-ai/DeepSeek-V2-Lite-Chat",
        config=DEEPSEEK_V2_LITE,
        aliases=("deepseek-v2-lite-chat", "deepseek-v2-16b"),
    ),
    _known(
        "deepseek-v3",
        "deepseek-ai/DeepSeek-V3",
        "DeepSeek-V3-4bit",
        config=DEEPSEEK_V3,
        aliases=("deepseek-v3-671b",),
    ),
    _known("deepseek-v3-0324", "deepseek-ai/DeepSeek-V3-0324", "DeepSeek-V3-0324-4bit", config=DEEPSEEK_V3),
    _known(
        "deepseek-v3.1",
        "deepseek-ai/DeepSeek-V3.1",
        "DeepSeek-V3.1-4bit",
        config=DEEPSEEK_V3,
        aliases=("deepseek-v3.1-671b",),
    ),
    _known(
        "deepseek-r1",
        "deepseek-ai/DeepSeek-R1",
        "DeepSeek-R1-4bit",
        config=DEEPSEEK_V3,
        aliases=("deepseek-r1-671b",),
    ),
    _known("deepseek-r1-0528", "deepseek-ai/DeepSeek-R1-0528", "DeepSeek-R1-0528-4bit", config=DEEPSEEK_V3),
    _known(
        "deepseek-v3.2",
        "deepseek-ai/DeepSeek-V3.2",
        "DeepSeek-V3.2-4bit",
        config=DEEPSEEK_V32,
        aliases=("deepseek-v3.2-671b",),
    ),
    _known("deepseek-v3.2-exp", "deepseek-ai/DeepSeek-V3.2-Exp", config=DEEPSEEK_V32),
    _known("glm-5", "zai-org/GLM-5", "GLM-5-4bit", config=GLM_5),
    _known(
        "kimi-k2",
        "moonshotai/Kimi-K2-Instruct",
        "Kimi-K2-Instruct-4bit",
        config=KIMI_K2,
        aliases=("kimi-k2-instruct", "kimi-k2-1t"),
    ),
    _known(
        "kimi-k2-0905",
        "moonshotai/Kimi-K2-Instruct-0905",
        config=KIMI_K2_0905,
        aliases=("kimi-k2-instruct-0905",),
    ),
    _known("kimi-k2-thinking", "moonshotai/Kimi-K2-Thinking", "Kimi-K2-Thinking", config=KIMI_K2_0905),
    _known("kimi-k2.5", "moonshotai/Kimi-K2.5", "Kimi-K2.5", config=KIMI_K2_5),
    _known(
        "qwen3-235b-a22b",
        "Qwen/Qwen3-235B-A22B",
        "Qwen3-235B-A22B-4bit",
        config=QWEN3_235B,
        aliases=("qwen3-235b",),
    ),
    _known(
        "qwen3-235b-a22b-instruct-2507",
        "Qwen/Qwen3-235B-A22B-Instruct-2507",
        "Qwen3-235B-A22B-Instruct-2507-4bit",
        config=QWEN3_235B_2507,
        aliases=("qwen3-235b-instruct", "qwen3-235b-instruct-2507"),
    ),
    _known(
        "qwen3-235b-a22b-thinking-2507",
        "Qwen/Qwen3-235B-A22B-Thinking-2507",
        "Qwen3-235B-A22B-Thinking-2507-4bit",
        config=QWEN3_235B_2507,
        aliases=("qwen3-235b-thinking", "qwen3-235b-thinking-2507"),
    ),
    _known(
        "qwen3-30b-a3b",
        "Qwen/Qwen3-30B-A3B",
        "Qwen3-30B-A3B-4bit",
        config=QWEN3_30B,
        aliases=("qwen3-30b",),
    ),
    _known(
        "qwen3-30b-a3b-instruct-2507",
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "Qwen3-30B-A3B-Instruct-2507-4bit",
        config=QWEN3_30B_2507,
        aliases=("qwen3-30b-instruct", "qwen3-30b-instruct-2507"),
    ),
    _known(
        "qwen3-30b-a3b-thinking-2507",
        "Qwen/Qwen3-30B-A3B-Thinking-2507",
        "Qwen3-30B-A3B-Thinking-2507-4bit",
        config=QWEN3_30B_2507,
        aliases=("qwen3-30b-thinking", "qwen3-30b-thinking-2507"),
    ),
    _known(
        "qwen3-coder-30b",
        "Qwen/Qwen3-Coder-30B-A3B-Instruct",
        "Qwen3-Coder-30B-A3B-Instruct-4bit",
        config=QWEN3_30B_2507,  # its intermediate_size differs, which no layer has
        aliases=("qwen3-coder-30b-a3b", "qwen3-coder-30b-a3b-instruct"),
    ),
    _known(
        "qwen3-coder-480b",
        "Qwen/Qwen3-Coder-480B-A35B-Instruct",
        "Qwen3-Coder-480B-A35B-Instruct-4bit",
        config=QWEN3_CODER_480B,
        aliases=("qwen3-coder-480b-a35b", "qwen3-coder-480b-a35b-instruct"),
    ),
    _known(
        "qwen3-next-80b",
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        "Qwen3-Next-80B-A3B-Instruct-4bit",
        config=QWEN3_NEXT_80B,
        aliases=("qwen3-next", "qwen3-next-80b-a3b", "qwen3-next-80b-a3b-instruct"),
    ),
    _known(
        "qwen3-next-80b-thinking",
        "Qwen/Qwen3-Next-80B-A3B-Thinking",
        "Qwen3-Next-80B-A3B-Thinking-4bit",
        config=QWEN3_NEXT_80B,
        aliases=("qwen3-next-80b-a3b-thinking",),
    ),
    _known("qwen3-coder-next", "Qwen/Qwen3-Coder-Next", "Qwen3-Coder-Next-4bit", config=QWEN3_CODER_NEXT),
    _known(
        "qwen3.5-35b-a3b",
        "Qwen/Qwen3.5-35B-A3B",
        "Qwen3.5-35B-A3B-4bit",
        config=QWEN3_5_35B,
        aliases=("qwen3.5-35b",),
    ),
    _known(
        "qwen3.5-122b-a10b",
        "Qwen/Qwen3.5-122B-A10B",
        "Qwen3.5-122B-A10B-4bit",
        config=QWEN3_5_122B,
        aliases=("qwen3.5-122b",),
    ),
    _known(
        "qwen3.5-397b-a17b",
        "Qwen/Qwen3.5-397B-A17B",
        "Qwen3.5-397B-A17B-4bit",
        config=QWEN3_5_397B,
        aliases=("qwen3.5-397b",),
    ),
    _known(
        "qwen3.6-35b-a3b",
        "Qwen/Qwen3.6-35B-A3B",
        "Qwen3.6-35B-A3B-4bit",
        config=QWEN3_5_35B,
        aliases=("qwen3.6-35b",),
    ),
    _known("minimax-m2", "MiniMaxAI/MiniMax-M2", config=MINIMAX_M2),
    _known("minimax-m2.1", "MiniMaxAI/MiniMax-M2.1", "MiniMax-M2.1-4bit", config=MINIMAX_M2),
    _known("minimax-m2.5", "MiniMaxAI/MiniMax-M2.5", "MiniMax-M2.5-4bit", config=MINIMAX_M2),
    _known(
        "mixtral-8x7b",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        config=MIXTRAL_8X7B,
        aliases=("mixtral", "mixtral-8x7b-instruct-v0.1"),
    ),
    _known("glm-4.5-air", "zai-org/GLM-4.5-Air", "GLM-4.5-Air-4bit", config=GLM_4_5_AIR),
    _known("glm-4.6", "zai-org/GLM-4.6", "GLM-4.6-4bit", config=GLM_4_6),
    _known("gpt-oss-20b", "openai/gpt-oss-20b", config=GPT_OSS_20B),  # 4 bits as published: no conversion is smaller
    _known("gpt-oss-120b", "openai/gpt-oss-120b", config=GPT_OSS_120B),
)

KNOWN_MODELS: Mapping[str, KnownModel] = {model.name: model for model in _TABLE if model.config}
"""The models with a short name that this version runs, and plans without their files."""

_BY_ALIAS = {alias: model for model in _TABLE for alias in (model.name, *model.aliases)}

_UNSUPPORTED = {
    "DeepSeek-V4": r"^deepseek-v[4-9]",
    "DeepSeekMoE": r"^deepseek-moe",
    "the first Qwen": r"^qwen-",
    "Qwen2-VL, Audio and Omni": r"^qwen2(?:\.5)?-(?:vl|audio|omni)",
    "the dense Qwen3.5 and 3.6": r"^qwen3\.[56]-(?:0\.8|2|4|9|27)b",
    "the dense Qwen3-VL and Omni": r"^qwen3-(?:vl-(?:2|4|8|32)b|omni)",
    "Kimi-VL, Linear, Dev and K3": r"^kimi-(?:vl|linear|dev|k[3-9])",
    "ChatGLM, GLM-V and GLM-5.2 and later": r"^(?:chatglm|glm-(?:5\.[2-9]|[6-9]|\d(?:\.\d)?v|4-9b(?:-chat|$)))",
    "Mistral with images": r"^(?:pixtral|ministral-3|mistral-(?:small-(?:3\.[1-9]|4)|medium-3|large-3))",
    "Llama 3.2 with images": r"^(?:meta-)?llama-3\.2-(?:11|90)b",
    "Gemma": r"^gemma",
    "Phi": r"^phi-(?!3\.5-moe)",
    "the dense OLMo": r"^olmo-",
    "MiniMax-Text-01, M1 and M3": r"^minimax-(?!m2)",
    "the dense ERNIE and ERNIE-VL": r"^ernie-(?!4\.5(?:-(?:21b|300b)|$))",
    "Hunyuan": r"^hunyuan",
    "the dense Granite": r"^granite-(?!.*-a[48]00m)",
    "Jamba": r"^jamba",
    "DBRX": r"^dbrx",
    "Grok": r"^grok",
    "Nemotron": r"^nemotron",
}
"""Families of popular models that this version does not run, each with the names of its models."""


def find(name: str) -> KnownModel | None:
    """Return the model with a short name or alias, in any case and with `:` or `-`; None if there is none."""
    return None if "/" in name else _BY_ALIAS.get(name.lower().replace(":", "-"))


def published_config(name: str) -> Mapping[str, Any]:
    """Return the published configuration of a known model; empty if there is none."""
    known = find(name)
    return known.config if known else {}


def unsupported(name: str) -> bool:
    """Whether a model's name or repo id is of an unsupported family."""
    return bool(_family(name))


def refusal(name: str) -> str:
    """Return the error message for a model of an unsupported family."""
    return f"{name} belongs to {_family(name)}, which this version does not run; it runs {RUNS}"


def suggestions(name: str) -> list[str]:
    """Return the short names of models that a name may mean, likeliest first."""
    if known := find(name):
        return [known.name] if known.name in KNOWN_MODELS else []
    base = _base(name)
    if within := [known for known in KNOWN_MODELS if known in base]:
        return [known for known in within if not any(known != other and known in other for other in within)]
    containing = [known for known in KNOWN_MODELS if len(base) > 2 and base in known]
    return containing or difflib.get_close_matches(base, KNOWN_MODELS, cutoff=0.55)


def _family(name: str) -> str:
    base = _base(name)
    return next((family for family, pattern in _UNSUPPORTED.items() if re.search(pattern, base)), "")


def _base(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2].partition("@")[0].lower()
    return re.sub(r"[_ :]", "-", last)
