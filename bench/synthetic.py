"""A synthetic checkpoint with the real layout and names and random weights: python -m bench.synthetic FAMILY DIRECTORY.

FAMILY is deepseek, qwen3 or tiny. Matrices are affine 4 bit in groups of 64 by default, as in mlx-community's
conversions. The model writes nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mlx_moe import families
from mlx_moe.summary import model_parameters

SHARD_BYTES = 256 << 20

DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_shared_experts": 1,
    "n_routed_experts": 96,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 256,
    "q_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "qk_nope_head_dim": 64,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 65536,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
"""About 1 GB at 4 bit with float32 scales."""

QWEN3: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_experts": 96,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 65536,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
"""About 1 GB at 4 bit with float32 scales."""

TINY_DEEPSEEK: dict[str, Any] = DEEPSEEK | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 4,
    "n_routed_experts": 16,
    "q_lora_rank": 128,
    "num_experts_per_tok": 4,
    "vocab_size": 1024,
    "num_attention_heads": 8,
    "kv_lora_rank": 128,
    "n_group": 4,
    "topk_group": 2,
}
"""Small enough that the cost of the context is visible beside the cost of the weights."""


def write_checkpoint(directory: Path, config: dict[str, Any], bits: int | None = 4, seed: int = 0) -> None:
    """Write a checkpoint with random weights to `directory`; with `bits` None the weights stay float32."""
    directory.mkdir(parents=True, exist_ok=True)
    quantization = {} if bits is None else {"group_size": 64, "bits": bits, "mode": "affine"}
    values = config | ({"quantization": quantization, "quantization_config": quantization} if bits else {})
    (directory / "config.json").write_text(json.dumps(values, indent=1))
    write_byte_tokenizer(directory)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(_tensors(values, bits, np.random.default_rng(seed))), start=1):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, directory / name, metadata={"format": "mlx"})
        weight_map |= dict.fromkeys(shard, name)
        total += sum(array.nbytes for array in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _tensors(
    config: dict[str, Any], bits: int | None, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for parameter in model_parameters(families.read_config(config)):
        layout = parameter.layouts[0]
        tensor, shape = layout.sources[0].tensor, layout.shape
        spread = 1.5 / shape[-1] ** 0.5
        if not parameter.matrix:
            yield tensor, rng.uniform(0.8, 1.2, shape).astype(np.float32)
        elif bits is None or parameter.float32:
            yield tensor, (rng.standard_normal(shape, dtype=np.float32) * spread)
        else:
            groups = (*shape[:-1], shape[-1] // 64)
            scales = rng.uniform(0.7, 1.3, groups).astype(np.float32) * (4 * spread / 2**bits)
            yield tensor, rng.integers(0, 1 << 32, (*shape[:-1], shape[-1] * bits // 32), dtype=np.uint32)
            yield tensor.replace(".weight", ".scales"), scales
            yield tensor.replace(".weight", ".biases"), scales * -(2 ** (bits - 1) - 0.5)


def _shards(
    tensors: Iterator[tuple[str, np.ndarray[Any, Any]]],
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    shard: dict[str, np.ndarray[Any, Any]] = {}
    for name, array in tensors:
        if shard and sum(a.nbytes for a in shard.values()) + array.nbytes > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = array
    yield shard


def write_byte_tokenizer(directory: Path) -> None:
    """Write a tokenizer of single bytes that MLX and transformers read; ids above 255 have no text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


if __name__ == "__main__":
    import sys

    family = {"deepseek": DEEPSEEK, "qwen3": QWEN3, "tiny": TINY_DEEPSEEK}[sys.argv[1]]
    write_checkpoint(Path(sys.argv[2]), family)
