"""Outline: what a node has of a checkpoint before any weights: config, tokenizer, headers of all weight files."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_moe.checkpoint import durable_file, tensor_file
from mlx_moe.errors import CheckpointError

MAX_SMALL_BYTES = 64 << 20
"""Most bytes of a small file: the largest known ones, tokenizer.json and the index, have up to 35 MB."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SMALL = re.compile(
    r"(config|generation_config|added_tokens|special_tokens_map|tokenizer[\w.-]*|tekken|vocab|hf_quant_config|chat_template[\w.-]*"
    r"|model\.safetensors\.index)\.json|chat_template[\w.-]*\.jinja|merges\.txt|(tokenizer|tiktoken)\.model"
    r"|[\w.-]+\.tiktoken"
)


def is_small(name: str) -> bool:
    """Whether a file belongs to a checkpoint's outline by its name: text and numbers, neither weights nor code."""
    return bool(_NAME.fullmatch(name) and _SMALL.fullmatch(name))


def is_weights(name: str) -> bool:
    """Whether a file of the checkpoint's own directory has weights, by its name."""
    return bool(_NAME.fullmatch(name)) and name.endswith(".safetensors")


def store_small(directory: Path, name: str, data: bytes) -> None:
    """Store a small file. Raises CheckpointError if its name or size is not one of an outline's, or the disk fails."""
    if not is_small(name) or len(data) > MAX_SMALL_BYTES:
        raise CheckpointError(f"{name[:200]!r} with {len(data):,} bytes is not a file of a checkpoint's outline")
    _store(directory / name, data)


def store_header(directory: Path, name: str, header: bytes, size: int) -> None:
    """Check and store a weight file's first bytes, its length and header; `size` is that of the whole file.

    A file that has nothing but a header is stored whole.

    Raises:
        CheckpointError: the header is not valid, or the disk fails.
    """
    if not is_weights(name):
        raise CheckpointError(f"{name[:200]!r} is not the name of a safetensors file")
    path = directory / name
    tensor_file.parse(path, header[tensor_file.LENGTH_BYTES :], size - len(header))
    if not path.exists():
        _store(path if size == len(header) else tensor_file.header_path(path), header)


def store_whole(directory: Path, name: str, data: bytes) -> None:
    """Check and store a weight file of which all bytes are here. Raises as `store_header`."""
    store_header(directory, name, data[: tensor_file.header_bytes(name, data, len(data))], len(data))
    _store(directory / name, data)
    tensor_file.header_path(directory / name).unlink(missing_ok=True)


def _store(path: Path, data: bytes) -> None:
    with durable_file.written(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            durable_file.write(path, data)
