"""The checkpoint directory: the model's weights under mlx-community names, affine 8 bit, and its configs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from tokenizers import Tokenizer, processors
from torch import Tensor

from examples.demo_model.architecture import Architecture
from examples.demo_model.model import DemoModel
from examples.demo_model.tokenization import BOS, BOS_ID, CHAT_TEMPLATE, END, END_ID, PAD, PAD_ID

GROUP_SIZE, BITS = 32, 8
_FLOAT32 = ("e_score_correction_bias",)
_KEPT = ("gate.weight", "norm.weight", "layernorm.weight")


def write(directory: Path, model: DemoModel, tokenizer: Tokenizer) -> None:
    """Write a whole checkpoint; the directory appears complete or, on an error, stays as it was."""
    unfinished = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    weights = quantised(mlx_weights(model))
    mx.save_safetensors(str(unfinished / "model.safetensors"), weights, metadata={"format": "mlx"})
    total_size = sum(array.nbytes for array in weights.values())
    index = {
        "metadata": {
            "total_size": total_size,
            "total_parameters": sum(p.numel() for p in model.parameters()),
        },
        "weight_map": dict.fromkeys(sorted(weights), "model.safetensors"),
    }
    for name, content in (
        ("model.safetensors.index.json", index),
        ("config.json", config(model.architecture)),
        ("generation_config.json", _generation_config()),
        ("tokenizer_config.json", _tokenizer_config(model.architecture)),
    ):
        (unfinished / name).write_text(json.dumps(content, indent=2) + "\n")
    _with_bos(tokenizer).save(str(unfinished / "tokenizer.json"))
    if directory.exists():
        for path in directory.iterdir():
            if not (unfinished / path.name).exists():
                shutil.move(path, unfinished / path.name)
        shutil.rmtree(directory)
    unfinished.rename(directory)


def mlx_weights(model: DemoModel) -> dict[str, mx.array]:
    """Return the unquantised float32 weights; kv_b_proj is split into embed_q and unembed_out per head."""
    a = model.architecture
    weights: dict[str, mx.array] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("kv_b_proj.weight"):
            per_head = tensor.view(a.num_attention_heads, -1, a.kv_lora_rank)
            keys, values = per_head.split([a.qk_nope_head_dim, a.v_head_dim], dim=1)
            weights[name.replace("kv_b_proj", "embed_q")] = _mlx(keys.mT)
            weights[name.replace("kv_b_proj", "unembed_out")] = _mlx(values)
        else:
            weights[name] = _mlx(tensor)
    return weights


def quantised(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Return the weights as stored: matrices in 8 bit, norms and routers in bfloat16."""
    stored: dict[str, mx.array] = {}
    for name, array in weights.items():
        if name.endswith(_FLOAT32):
            stored[name] = array
        elif name.endswith(_KEPT):
            stored[name] = array.astype(mx.bfloat16)
        else:
            prefix = name.removesuffix(".weight")
            packed = mx.quantize(array.astype(mx.bfloat16), group_size=GROUP_SIZE, bits=BITS)
            stored[name], stored[f"{prefix}.scales"], stored[f"{prefix}.biases"] = packed
    return stored


def dequantised(directory: Path) -> dict[str, mx.array]:
    """Return a checkpoint's weights as float32, under the names of `mlx_weights`."""
    stored = mx.load(str(directory / "model.safetensors"))
    if not isinstance(stored, dict):
        raise TypeError(f"{directory} holds {type(stored).__name__} in place of named arrays")
    weights: dict[str, mx.array] = {}
    for name, array in stored.items():
        if name.endswith((".scales", ".biases")):
            continue
        prefix = name.removesuffix(".weight")
        if f"{prefix}.scales" in stored:
            scales, biases = (stored[f"{prefix}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            weights[name] = mx.dequantize(array, scales, biases, group_size=GROUP_SIZE, bits=BITS)
        else:
            weights[name] = array.astype(mx.float32)
    return weights


def read(directory: Path) -> DemoModel:
    """Return the torch model with a checkpoint's dequantised weights."""
    architecture = _architecture(json.loads((directory / "config.json").read_text()))
    weights = {name: torch.from_numpy(np.array(array)) for name, array in dequantised(directory).items()}
    state: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith("embed_q.weight"):
            values = weights[name.replace("embed_q", "unembed_out")]
            joined = torch.cat((tensor.mT, values), dim=1)
            state[name.replace("embed_q", "kv_b_proj")] = joined.reshape(-1, architecture.kv_lora_rank)
        elif not name.endswith("unembed_out.weight"):
            state[name] = tensor
    model = DemoModel(architecture)
    model.load_state_dict(state)
    model.eval()
    return model


def config(architecture: Architecture) -> dict[str, Any]:
    """Return config.json in the dialect of the hub."""
    quantization = {"group_size": GROUP_SIZE, "bits": BITS, "mode": "affine"}
    dimensions = {name: getattr(architecture, name) for name in architecture.__slots__}
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BOS_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "model_type": "deepseek_v3",
        "moe_layer_freq": 1,
        "norm_topk_prob": True,
        "num_key_value_heads": architecture.num_attention_heads,
        "rope_scaling": None,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **dimensions,
        "quantization": quantization,
        "quantization_config": quantization,
    }


def _architecture(stored: dict[str, Any]) -> Architecture:
    return Architecture(**{name: stored[name] for name in Architecture.__slots__})


def _generation_config() -> dict[str, Any]:
    return {
        "bos_token_id": BOS_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "do_sample": True,
        "temperature": 0.3,
        "top_p": 0.95,
    }


def _tokenizer_config(architecture: Architecture) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": architecture.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _with_bos(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that puts bos before plain text, when special tokens are asked for."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    return copy


def _mlx(tensor: Tensor) -> mx.array:
    return mx.array(tensor.detach().float().contiguous().numpy())
