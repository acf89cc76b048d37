"""Content: identifies a model by digests of its configuration and of samples of its tensors.

Two copies have the same content if they compute the same: equal fields of ModelConfig, and equal name, dtype, shape and
bytes of every tensor that the engine reads. The number and names of files, other tensors in them, and the spelling of
config.json do not matter. Imports no MLX.

Samples of a tensor's bytes are read at positions that depend only on its size. So another training run, quantization or
merge is detected in every tensor that it changed. Not detected are changed bytes between the samples, such as a few
edited rows of a large matrix.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.quantization import is_readable, sibling, unreadable
from mlx_moe.checkpoint.tensor_file import TensorInfo
from mlx_moe.config import ModelConfig

WHOLE_BYTES = 64 << 10
"""Tensors up to this size are read completely: vectors, scales of single experts."""

SAMPLE_BYTES = 4096
BYTES_A_SAMPLE = 16 << 20
"""Larger tensors are sampled at both ends, in the middle, in every stacked matrix, and in every 16 MiB."""

CONFIG = "config.json"
AT_ONCE = 16
BATCH = 64


@dataclass(frozen=True)
class Content:
    """The digests of a model, by part (the configuration, the ends, each layer) and by name."""

    parts: Mapping[str, Mapping[str, str]]

    @cached_property
    def part_hashes(self) -> dict[str, str]:
        """A hash for each part."""
        return {part: _hash(digests) for part, digests in self.parts.items()}

    @cached_property
    def hash(self) -> str:
        """A hash of all parts."""
        return _hash(self.part_hashes)


def read_content(checkpoint: Checkpoint, config: ModelConfig) -> Content:
    """Read the content of a checkpoint. Raises CheckpointError if a tensor that the model needs is missing."""
    tensors = {part: _stored_names(checkpoint, found) for part, found in _parameters(checkpoint, config).items()}
    digests = _digests(checkpoint, {name for names in tensors.values() for name in names})
    parts = {part: {name: digests[name] for name in names} for part, names in tensors.items()}
    return Content({CONFIG: _fields(config), **parts})


def read_part(checkpoint: Checkpoint, config: ModelConfig, part: str) -> dict[str, str]:
    """Read the digests of one part; empty for an unknown part. Raises as `read_content`."""
    if part == CONFIG:
        return _fields(config)
    names = _stored_names(checkpoint, _parameters(checkpoint, config).get(part, ()))
    digests = _digests(checkpoint, names)
    return {name: digests[name] for name in names}


def config_hash(config: ModelConfig) -> str:
    """Return the hash of the configuration, the part that needs no tensors."""
    return _hash(_fields(config))


def first_difference(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """Return the first name whose values differ or that is in only one of the mappings; None if they are equal."""
    return next((name for name in {**one, **other} if one.get(name) != other.get(name)), None)


def _fields(config: ModelConfig) -> dict[str, str]:
    """Return the configuration's fields as JSON texts."""
    fields = dataclasses.asdict(config)
    return {name: json.dumps(value, sort_keys=True, default=sorted) for name, value in fields.items()}


def _parameters(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, list[Parameter]]:
    experts = range(config.moe.n_routed_experts)
    parts = {"embedding, final norm and lm_head": families.head_parameters(config)}
    for index in range(config.num_hidden_layers):
        parts[f"layer {index}"] = families.layer(config, index).parameters(experts)
    if families.has_mtp(checkpoint, config):
        parts["multi-token prediction"] = families.mtp_parameters(config)
    return parts


def _stored_names(checkpoint: Checkpoint, parameters: Iterable[Parameter]) -> dict[str, None]:
    """Return the names of the tensors from which parameters are read, each once, in order."""
    names: dict[str, None] = {}
    for parameter in parameters:
        layout = next((layout for layout in parameter.layouts if is_readable(checkpoint, layout)), None)
        if layout is None:
            raise unreadable(checkpoint, parameter)
        for source in layout.sources:
            names[source.tensor] = None
            if parameter.matrix:
                parts = sibling(source.tensor, "scales"), sibling(source.tensor, "biases")
                names |= dict.fromkeys(name for name in parts if name in checkpoint)
    return names


def _digests(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """Return the digests of tensors, which are read in the order of the files by AT_ONCE threads."""
    infos = sorted((checkpoint.info(name) for name in names), key=lambda info: (str(info.path), info.offset))
    batches = [infos[i : i + BATCH] for i in range(0, len(infos), BATCH)]

    def read(batch: list[TensorInfo]) -> list[tuple[str, str]]:
        return [(info.name, _digest(checkpoint, info)) for info in batch]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(pair for pairs in threads.map(read, batches) for pair in pairs)


def _digest(checkpoint: Checkpoint, info: TensorInfo) -> str:
    pieces = [Piece(info.name, start, nbytes) for start, nbytes in samples(info)]
    data = bytearray(sum(piece.nbytes for piece in pieces))
    checkpoint.read_into(pieces, data)
    digest = hashlib.blake2b(f"{info.dtype}{list(info.shape)}".encode(), digest_size=8)
    digest.update(data)
    return digest.hexdigest()


def samples(info: TensorInfo) -> list[tuple[int, int]]:
    """Return the samples of a tensor as (start, number of bytes), evenly spread from its first byte to its last."""
    if info.nbytes <= WHOLE_BYTES:
        return [(0, info.nbytes)]
    n_samples = max(3, math.prod(info.shape[:-2]), math.ceil(info.nbytes / BYTES_A_SAMPLE))
    if n_samples * SAMPLE_BYTES >= info.nbytes:
        return [(0, info.nbytes)]
    last = info.nbytes - SAMPLE_BYTES
    return [(i * last // (n_samples - 1), SAMPLE_BYTES) for i in range(n_samples)]


def _hash(values: Mapping[str, str]) -> str:
    return hashlib.blake2b(json.dumps(sorted(values.items())).encode(), digest_size=16).hexdigest()
