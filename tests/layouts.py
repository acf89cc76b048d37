"""Rewriting a checkpoint without changing a number: the layout of its experts, and how it is divided into files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

Arrays = dict[str, mx.array]

_STACK = re.compile(r"(.+)\.switch_mlp\.(gate_proj|up_proj|down_proj)\.(weight|scales|biases)")


def read_arrays(directory: Path) -> Arrays:
    """Return all tensors of a checkpoint."""
    arrays: Arrays = {}
    for path in sorted(directory.glob("*.safetensors")):
        loaded = mx.load(str(path))
        assert isinstance(loaded, dict)
        arrays |= loaded
    return arrays


def rewrite(directory: Path, arrays: Arrays, file_of: Callable[[str], int] = lambda _: 0) -> None:
    """Replace a checkpoint's files by such as have `arrays`, each in the file with the number that `file_of` says."""
    files: dict[int, Arrays] = {}
    for name, array in arrays.items():
        files.setdefault(file_of(name), {})[name] = array
    for path in directory.glob("*.safetensors*"):
        path.unlink()
    for number, tensors in enumerate(files.values(), 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        mx.save_safetensors(str(directory / name), tensors, metadata={"format": "mlx"})


def per_expert(arrays: Arrays, layer: int) -> Arrays:
    """Give each expert of a layer tensors of its own, as originals on the hub have them."""
    laid: Arrays = {}
    for name, array in arrays.items():
        if (match := _STACK.fullmatch(name)) and _layer(name) == layer:
            path, projection, kind = match.groups()
            laid |= {f"{path}.experts.{e}.{projection}.{kind}": array[e] for e in range(array.shape[0])}
        else:
            laid[name] = array
    return laid


def fused(arrays: Arrays, layer: int) -> Arrays:
    """Fuse gate and up projections of a layer's experts, as transformers 5 has them in memory."""
    laid: Arrays = {}
    for name, array in arrays.items():
        match = _STACK.fullmatch(name)
        if match is None or _layer(name) != layer:
            laid[name] = array
            continue
        path, projection, kind = match.groups()
        end = "" if kind == "weight" else f".{kind}"
        if projection == "down_proj":
            laid[f"{path}.experts.down_proj{end}"] = array
        elif projection == "gate_proj":
            up = arrays[f"{path}.switch_mlp.up_proj.{kind}"]
            laid[f"{path}.experts.gate_up_proj{end}"] = mx.concatenate([array, up], axis=1)
    return laid


def _layer(name: str) -> int:
    return int(name.split(".")[2])
