"""Loading: a role's byte ranges, from this node's own copy of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from cluster.worker.role import Role
from mlx_moe import families, library, memory
from mlx_moe.checkpoint import Checkpoint
from mlx_moe.config import ModelConfig
from mlx_moe.errors import CheckpointError
from mlx_moe.holding import Holding, load_holding
from mlx_moe.loader import Progress
from mlx_moe.model import default_sampling
from mlx_moe.sampling import SamplingParams
from mlx_moe.tokenizer import Tokenizer

FREED_BYTES = 128 << 20
"""Of freed buffers MLX may keep so much: a worker's peak is its shard, its KV caches and little more."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A role's part of a model in memory; tokenizer and sampling defaults are the coordinator's."""

    config: ModelConfig
    holding: Holding
    tokenizer: Tokenizer | None
    sampling: SamplingParams


def load(model: str, role: Role, progress: Progress) -> Loaded:
    """Read what a role holds.

    Raises:
        CheckpointError: the copy is another one than the placement was made for, or is damaged.
        InsufficientMemoryError: before anything is read.
    """
    mx.set_cache_limit(FREED_BYTES)
    with Checkpoint.open(library.locate(model)) as checkpoint:
        wanted, found = role.placement.content_hash, checkpoint.content_hash()
        if wanted not in ("", found):
            raise CheckpointError(
                f"the copy of {model} in {checkpoint.directory} has the hash {found}, the placement was made for "
                f"{wanted}: give all nodes the same files"
            )
        config = families.read_config(checkpoint.config, str(checkpoint.directory / "config.json"))
        tokenizer = Tokenizer.load(checkpoint.directory) if role.coordinates else None
        sampling = default_sampling(checkpoint.directory)
        holding = load_holding(
            checkpoint,
            config,
            role.shard_spec(),
            coordinates=role.coordinates,
            memory_share=memory.HARD_LIMIT,  # whoever made the placement counted KV caches and temporaries too
            progress=progress,
        )
    return Loaded(config, holding, tokenizer, sampling)
