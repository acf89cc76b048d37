"""Small files: copies what a model's directory has beside weights: tokenizer, chat template, generation settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlx_moe.checkpoint import durable_file, json_file, origin
from mlx_moe.checkpoint.weight_files import INDEX_NAME

MAX_BYTES = json_file.MAX_BYTES

_LEFT_OUT = ("config.json", INDEX_NAME, "digests.json", "hf_quant_config.json", origin.NAME, "content.json")
"""They describe the source's tensors, or where a node has them from; the first three are written anew."""

_WEIGHTS = (".safetensors", ".header", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def of(source: Path) -> Iterator[Path]:
    """Yield the regular files of a directory that are neither weights nor hidden nor larger than MAX_BYTES."""
    for path in sorted(source.iterdir()):
        is_wanted = not path.name.startswith(".") and path.name not in _LEFT_OUT and path.suffix not in _WEIGHTS
        if is_wanted and path.is_file() and path.stat().st_size <= MAX_BYTES:
            yield path


def copy(source: Path, directory: Path) -> None:
    """Copy these files.

    Raises:
        CheckpointError: a file cannot be read, or is a link to another user's file.
    """
    for path in of(source):
        durable_file.write(directory / path.name, json_file.read_bytes(path))
