"""Converted config: config.json and the index of a converted checkpoint, as mlx-lm and this engine read them.

mlx-lm reads the keys of published checkpoints alone, so those are added to a config.json of transformers 5.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mlx_moe.config import QuantizationConfig
from mlx_moe.conversion.plan import ConversionPlan

_FOREIGN = ("quantization", "quantization_config", "compression_config")
"""How the source is quantized: untrue of the converted tensors."""

_MTP = ("num_nextn_predict_layers", "num_mtp_layers")


def converted_config(source: Mapping[str, Any], plan: ConversionPlan) -> dict[str, Any]:
    """Return the content of config.json: the source's, with the quantization of what is planned."""
    config = {key: value for key, value in source.items() if key not in _FOREIGN}
    config |= _published_keys(config)
    if not plan.has_mtp:
        config |= {key: 0 for key in _MTP if key in config}
    if section := _quantization(plan):
        config |= {"quantization": section, "quantization_config": section}
    return dict(sorted(config.items()))


def converted_index(plan: ConversionPlan) -> dict[str, Any]:
    """Return the content of the index: which file has which tensor."""
    files = {tensor.name: file.name for file in plan.files for tensor in file.tensors}
    return {
        "metadata": {"total_size": plan.nbytes, "total_parameters": plan.n_weights},
        "weight_map": dict(sorted(files.items())),
    }


def to_json(values: Mapping[str, Any]) -> bytes:
    """Return a file's bytes."""
    return json.dumps(values, indent=2).encode() + b"\n"


def _quantization(plan: ConversionPlan) -> dict[str, Any]:
    """Return the quantization of experts, and by path those of the modules that have another; empty for none."""
    nbytes: Counter[QuantizationConfig] = Counter()
    for p in plan.parameters:
        if p.quantization is not None:
            nbytes[p.quantization] += p.nbytes
    if not nbytes:
        return {}
    most = plan.recipe.experts or max(nbytes, key=lambda how: nbytes[how])
    others = {
        module: asdict(p.quantization)
        for p in plan.parameters
        if p.quantization not in (None, most)
        for module in p.modules
    }
    return asdict(most) | others


def _published_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers 5 spells otherwise, in the spelling of published checkpoints."""
    keys: dict[str, Any] = {}
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_scaling" not in config:
        kind = rope.get("rope_type", "default")
        rest = {key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type")}
        keys["rope_scaling"] = None if kind == "default" else rest | {"type": kind, "rope_type": kind}
        if "rope_theta" in rope:
            keys["rope_theta"] = rope["rope_theta"]
    if "num_local_experts" in config and config.get("model_type") == "qwen3_moe":
        keys["num_experts"] = config["num_local_experts"]
    if "dtype" in config:
        keys["torch_dtype"] = config["dtype"]
    return {key: value for key, value in keys.items() if key not in config}
