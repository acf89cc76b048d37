"""Checkpoints of the true size without the bytes: python -m tests.true_size fp8|bf16|4bit|int4 DIRECTORY [LAYERS].

Names, dtypes, shapes and headers are those of published checkpoints; the data are holes in sparse files, and are read
as zeros. fp8: DeepSeek-V3 as its authors published it, a tensor per expert, with the MTP layer, 689 GB in 163 files;
bf16: the same in 1.37 TB. 4bit: its conversion by mlx-lm, stacked experts, without the MTP layer, 378 GB in 88 files.
int4: Kimi-K2-Thinking, experts in compressed-tensors, 594 GB in 62 files. With LAYERS: only the first ones.

Source: README_WEIGHTS.md and config.json of deepseek-ai/DeepSeek-V3, of which all numbers of each dtype are compared
with the hub's count; which tensors are in which file is not known, so they are divided evenly. `mlx_lm.convert` for
the names of the conversion and the sizes of its files. int4 follows the compressed-tensors format with Kimi-K2's
configuration, and is not compared with a published count.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.published_configs import DEEPSEEK_V3, KIMI_K2

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as its file's header describes it."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.item_bytes


class Original:
    """How authors publish a model: here in bfloat16, a tensor per expert, `kv_b_proj` whole."""

    config: ClassVar[Config] = DEEPSEEK_V3
    keys: ClassVar[Config] = {"rms_norm_eps": 1e-6, "torch_dtype": "bfloat16"}
    metadata: ClassVar[dict[str, str]] = {"format": "pt"}
    file_bytes = 8_400_000_000
    has_mtp = True

    def linear(self, path: str, *shape: int) -> Iterator[Tensor]:
        yield Tensor(f"{path}.weight", Dtype.BF16, shape)

    def embedding(self, path: str, *shape: int) -> Iterator[Tensor]:
        yield Tensor(f"{path}.weight", Dtype.BF16, shape)

    def experts(self, path: str, projection: str, n_experts: int, *shape: int) -> Iterator[Tensor]:
        for expert in range(n_experts):
            yield from self.linear(f"{path}.experts.{expert}.{projection}", *shape)

    def latents(self, path: str, heads: int, nope: int, value: int, rank: int) -> Iterator[Tensor]:
        yield from self.linear(f"{path}.kv_b_proj", heads * (nope + value), rank)

    def files(self, tensors: list[Tensor]) -> Iterator[list[Tensor]]:
        """Divide evenly; in a file, the safetensors library writes wide dtypes first, then sorts by name."""
        n_files = math.ceil(sum(tensor.nbytes for tensor in tensors) / self.file_bytes)
        limit = math.ceil(sum(tensor.nbytes for tensor in tensors) / n_files)
        divided: list[list[Tensor]] = [[] for _ in range(n_files)]
        done = 0
        for tensor in tensors:
            divided[done // limit].append(tensor)
            done += tensor.nbytes
        for file in filter(None, divided):
            yield sorted(file, key=lambda tensor: (-tensor.dtype.item_bytes, tensor.name))


class Fp8(Original):
    """F8_E4M3 with a float32 scale per block of 128 x 128."""

    file_bytes = 4_225_000_000
    keys: ClassVar[Config] = Original.keys | {
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
    }

    def linear(self, path: str, *shape: int) -> Iterator[Tensor]:
        yield Tensor(f"{path}.weight", Dtype.F8_E4M3, shape)
        yield Tensor(f"{path}.weight_scale_inv", Dtype.F32, tuple(math.ceil(size / 128) for size in shape))


class Int4(Original):
    """bfloat16, with experts of packed 4 bit integers and a scale per 32 inputs."""

    config = KIMI_K2
    file_bytes = 9_620_000_000
    has_mtp = False
    keys: ClassVar[Config] = Original.keys | {
        "quantization_config": {
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"group_size": 32, "num_bits": 4, "strategy": "group", "symmetric": True, "type": "int"},
                }
            },
            "format": "pack-quantized",
            "quant_method": "compressed-tensors",
        }
    }

    def experts(self, path: str, projection: str, n_experts: int, *shape: int) -> Iterator[Tensor]:
        out_features, in_features = shape
        for expert in range(n_experts):
            prefix = f"{path}.experts.{expert}.{projection}"
            yield Tensor(f"{prefix}.weight_packed", Dtype.I32, (out_features, in_features // 8))
            yield Tensor(f"{prefix}.weight_scale", Dtype.BF16, (out_features, in_features // 32))
            yield Tensor(f"{prefix}.weight_shape", Dtype.I32, (2,))


class Affine4(Original):
    """mlx-lm's conversion: 4 bit in groups of 64, experts stacked, files of up to 5 GiB."""

    keys: ClassVar[Config] = Original.keys | {"quantization": {"group_size": 64, "bits": 4, "mode": "affine"}}
    metadata: ClassVar[dict[str, str]] = {"format": "mlx"}
    file_bytes = 5 << 30
    has_mtp = False

    def linear(self, path: str, *shape: int) -> Iterator[Tensor]:
        *rows, in_features = shape
        yield Tensor(f"{path}.weight", Dtype.U32, (*rows, in_features // 8))
        yield Tensor(f"{path}.scales", Dtype.BF16, (*rows, in_features // 64))
        yield Tensor(f"{path}.biases", Dtype.BF16, (*rows, in_features // 64))

    def embedding(self, path: str, *shape: int) -> Iterator[Tensor]:
        yield from self.linear(path, *shape)

    def experts(self, path: str, projection: str, n_experts: int, *shape: int) -> Iterator[Tensor]:
        yield from self.linear(f"{path}.switch_mlp.{projection}", n_experts, *shape)

    def latents(self, path: str, heads: int, nope: int, value: int, rank: int) -> Iterator[Tensor]:
        yield from self.linear(f"{path}.embed_q", heads, rank, nope)
        yield from self.linear(f"{path}.unembed_out", heads, value, rank)

    def files(self, tensors: list[Tensor]) -> Iterator[list[Tensor]]:
        """Fill one file after the other."""
        file: list[Tensor] = []
        for tensor in tensors:
            if file and sum(t.nbytes for t in file) + tensor.nbytes > self.file_bytes:
                yield file
                file = []
            file.append(tensor)
        yield file


FORMS: dict[str, Original] = {"bf16": Original(), "fp8": Fp8(), "4bit": Affine4(), "int4": Int4()}


def write(directory: Path, form: str, layers: int | None = None) -> Path:
    """Write a checkpoint in one of FORMS, with its first `layers`; return the directory."""
    published = FORMS[form]
    config = published.config | published.keys
    config |= {"num_hidden_layers": layers or config["num_hidden_layers"]}
    if not published.has_mtp:
        config |= {"num_nextn_predict_layers": 0}
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    files = list(published.files(list(tensors(published, config))))
    weight_map = {}
    for number, file in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        _write_sparse(directory / name, file, published.metadata)
        weight_map |= dict.fromkeys((tensor.name for tensor in file), name)
    total = sum(tensor.nbytes for file in files for tensor in file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return directory


def tensors(form: Original, config: Config) -> Iterator[Tensor]:
    """Yield all tensors of a checkpoint, layer after layer."""
    vocab_size, hidden_size, n_layers = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    yield from form.embedding("model.embed_tokens", vocab_size, hidden_size)
    for index in range(n_layers):
        yield from _layer(form, config, index)
    if form.has_mtp:
        path = f"model.layers.{n_layers}"
        yield from form.embedding(f"{path}.embed_tokens", vocab_size, hidden_size)
        yield from _norms(path, hidden_size, "enorm", "hnorm", "shared_head.norm")
        yield Tensor(f"{path}.eh_proj.weight", Dtype.BF16, (hidden_size, 2 * hidden_size))
        yield from form.embedding(f"{path}.shared_head.head", vocab_size, hidden_size)
        yield from _layer(form, config, n_layers)
    yield from _norms("model", hidden_size, "norm")
    yield from form.embedding("lm_head", vocab_size, hidden_size)


def _layer(form: Original, config: Config, index: int) -> Iterator[Tensor]:
    path, hidden_size = f"model.layers.{index}", config["hidden_size"]
    attention, mlp = f"{path}.self_attn", f"{path}.mlp"
    heads, rank, q_rank = config["num_attention_heads"], config["kv_lora_rank"], config["q_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    yield from _norms(path, hidden_size, "input_layernorm", "post_attention_layernorm")
    yield from form.linear(f"{attention}.q_a_proj", q_rank, hidden_size)
    yield from _norms(attention, q_rank, "q_a_layernorm")
    yield from form.linear(f"{attention}.q_b_proj", heads * (nope + rope), q_rank)
    yield from form.linear(f"{attention}.kv_a_proj_with_mqa", rank + rope, hidden_size)
    yield from _norms(attention, rank, "kv_a_layernorm")
    yield from form.latents(attention, heads, nope, value, rank)
    yield from form.linear(f"{attention}.o_proj", hidden_size, heads * value)
    if index < config["first_k_dense_replace"]:
        yield from _mlp(form, mlp, hidden_size, config["intermediate_size"])
        return
    n_experts, width = config["n_routed_experts"], config["moe_intermediate_size"]
    yield Tensor(f"{mlp}.gate.weight", Dtype.BF16, (n_experts, hidden_size))
    yield Tensor(f"{mlp}.gate.e_score_correction_bias", Dtype.F32, (n_experts,))
    yield from form.experts(mlp, "gate_proj", n_experts, width, hidden_size)
    yield from form.experts(mlp, "up_proj", n_experts, width, hidden_size)
    yield from form.experts(mlp, "down_proj", n_experts, hidden_size, width)
    yield from _mlp(form, f"{mlp}.shared_experts", hidden_size, width * config["n_shared_experts"])


def _mlp(form: Original, path: str, hidden_size: int, width: int) -> Iterator[Tensor]:
    yield from form.linear(f"{path}.gate_proj", width, hidden_size)
    yield from form.linear(f"{path}.up_proj", width, hidden_size)
    yield from form.linear(f"{path}.down_proj", hidden_size, width)


def _norms(path: str, size: int, *names: str) -> Iterator[Tensor]:
    yield from (Tensor(f"{path}.{name}.weight", Dtype.BF16, (size,)) for name in names)


def _write_sparse(path: Path, tensors: Iterable[Tensor], metadata: dict[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (end, end + tensor.nbytes),
        }
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    if metadata["format"] == "pt":  # the safetensors library aligns the data; MLX does not
        text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


if __name__ == "__main__":
    write(Path(sys.argv[2]), sys.argv[1], int(sys.argv[3]) if len(sys.argv) > 3 else None)
