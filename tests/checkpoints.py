"""Makers of small checkpoints: random models, written to disk by the libraries that people's checkpoints come from.

These libraries are imported by the first test that needs one. Knows nothing of the engine. Every matrix is wide enough
in its input for quantization groups of 64, but for `embed_q`, which mlx-lm then leaves unquantized.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from bench.synthetic import write_byte_tokenizer
from tests import families

if TYPE_CHECKING:
    import torch

Model = Any
"""A transformers model for causal language modelling; the library is imported untyped."""


@cache
def transformers() -> ModuleType:
    """Return the library, which is quiet and uses one core."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # from_pretrained reports an MTP layer as unexpected
    return transformers


@dataclass(frozen=True)
class Shape:
    """A random model: its family, what differs from the family's base configuration, and the seed of its weights.

    `router_bias` is the spread of DeepSeek's e_score_correction_bias; scores lie between 0 and 1.
    """

    family: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    router_bias: float = 0.1

    def model(self) -> Model:
        """Return the model in float32."""
        import torch

        config = transformers().AutoConfig.for_model(
            self.family, **(dict(families.read(self.family).config) | dict(self.changes))
        )
        model = transformers().AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        randomize(model, self.router_bias, torch.Generator().manual_seed(self.seed))
        return model


def randomize(model: Model, router_bias: float, random: torch.Generator) -> None:
    """Draw weights that keep activations near 1 and routing varied: no norm of ones, no bias of zeros."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("e_score_correction_bias"):
            tensor.data.normal_(0, router_bias, generator=random)
        elif name.endswith("norm.weight"):
            stored = 1.0 if tensor.data.any() else 0.0  # some families store weights less 1
            tensor.data.uniform_(0.5, 1.5, generator=random).add_(stored - 1)
        elif name.endswith("A_log"):
            tensor.data.uniform_(0.01, 2, generator=random).log_()
        elif name.endswith(("bias", "sinks")):
            tensor.data.normal_(0, 0.3, generator=random)
        elif name.endswith("embed_tokens.weight"):
            tensor.data.normal_(0, 0.5, generator=random)
        elif name.endswith(("weight", "_proj")):
            spread = 2.0 if name.endswith("gate.weight") else 1.2
            tensor.data.normal_(0, spread / tensor.shape[-1] ** 0.5, generator=random)


def save(
    model: Model, directory: Path, *, fused: bool = False, dtype: str = "float32", shard_size: str = "1GB"
) -> Path:
    """Save a model as transformers does: a tensor an expert, as on the hub, or `fused`, as in its memory.

    In 16 bit, the router and its bias stay float32, as transformers loads published checkpoints.
    """
    import torch

    model.save_pretrained(directory, save_original_format=not fused, max_shard_size=shard_size)
    if dtype != "float32":
        narrow = transformers().AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
        shutil.rmtree(directory)
        narrow.save_pretrained(directory, save_original_format=not fused, max_shard_size=shard_size)
    write_byte_tokenizer(directory)
    return directory


_SAVED: dict[str, Path] = {}
_SAVED_IN = tempfile.TemporaryDirectory(prefix="checkpoints-")


def saved(shape: Shape, *, fused: bool = False, dtype: str = "float32", hub_dialect: bool = False) -> Path:
    """Return where a shape's model lies, saved once for all tests of this process: they only read it."""
    key = repr((shape, fused, dtype, hub_dialect))
    if key not in _SAVED:
        directory = Path(tempfile.mkdtemp(dir=_SAVED_IN.name), "model")
        if hub_dialect:
            to_hub_dialect(shutil.copytree(saved(shape, fused=fused, dtype=dtype), directory))
        else:
            save(shape.model(), directory, fused=fused, dtype=dtype)
        _SAVED[key] = directory
    return _SAVED[key]


def to_hub_dialect(directory: Path) -> Path:
    """Rewrite a config.json of transformers 5 with the keys that published checkpoints have."""
    path = directory / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    family = families.read(config["model_type"])
    config = {family.hub_names.get(key, key): value for key, value in config.items() if key not in family.hub_lacks}
    path.write_text(json.dumps(config | dict(family.hub_only), indent=2))
    return directory


def convert_with_mlx_lm(
    source: Path,
    directory: Path,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str = "affine",
    dtype: str = "float32",
    predicate: Callable[..., bool | dict[str, Any]] | None = None,
) -> Path:
    """Convert a checkpoint in the hub's dialect to the stacked layout, quantized if `bits` are given."""
    from mlx_lm.convert import convert

    convert(
        str(source),
        str(directory),
        quantize=bits is not None,
        q_bits=bits,
        q_group_size=group_size,
        q_mode=mode,
        dtype=dtype,
        quant_predicate=predicate,
    )
    return directory


def with_older_kv_b_proj(converted: Path, source: Path, directory: Path) -> Path:
    """Copy a conversion, with the source's `kv_b_proj` quantized whole, as conversions were before `embed_q`."""
    shutil.copytree(converted, directory)
    (directory / "model.safetensors.index.json").unlink()
    quantization = json.loads((converted / "config.json").read_text())["quantization"]
    stored = mx.load(str(converted / "model.safetensors"))
    originals = mx.load(str(source / "model.safetensors"))
    tensors = {name: array for name, array in stored.items() if "embed_q" not in name and "unembed_out" not in name}
    for name, array in originals.items():
        if name.endswith("kv_b_proj.weight"):
            parts = mx.quantize(array, quantization["group_size"], quantization["bits"])
            path = name.removesuffix("weight")
            tensors |= {path + kind: part for kind, part in zip(("weight", "scales", "biases"), parts, strict=True)}
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "mlx"})
    return directory


def save_with_mtp(shape: Shape, directory: Path) -> Path:
    """Save a DeepSeek model whose last layer is the MTP layer, under the names and the config of published ones."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(saved(shape, hub_dialect=True), directory, dirs_exist_ok=True)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    index = config["num_hidden_layers"] - 1
    path.write_text(json.dumps(config | {"num_hidden_layers": index, "num_nextn_predict_layers": 1}))
    tensors = load_file(directory / "model.safetensors")
    random, width = torch.Generator().manual_seed(shape.seed), config["hidden_size"]
    prefix = f"model.layers.{index}"
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        tensors[f"{prefix}.{norm}.weight"] = torch.empty(width).uniform_(0.5, 1.5, generator=random)
    projection = torch.empty(width, 2 * width).normal_(0, (2 * width) ** -0.5, generator=random)
    tensors[f"{prefix}.eh_proj.weight"] = projection
    tensors[f"{prefix}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors[f"{prefix}.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_tensors(directory: Path, tensors: Mapping[str, tuple[str, np.ndarray[Any, Any]]], **config: Any) -> Path:
    """Write a checkpoint of arrays with any dtype of the format, whether numpy has it or not."""
    directory.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (end, end := end + array.nbytes)}
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for _, array in tensors.values())
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (directory / "config.json").write_text(json.dumps(config))
    return directory
