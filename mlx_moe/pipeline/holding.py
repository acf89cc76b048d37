"""Holding: what one process has in memory of a model, its shard and, where the coordinator is, the two ends."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_moe import memory
from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.held import Held
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.config import ModelConfig
from mlx_moe.families import has_mtp, head_parameters, mtp_parameters
from mlx_moe.pipeline.embedding_and_lm_head import LoadedEmbeddingAndLMHead
from mlx_moe.pipeline.mtp import MultiTokenPrediction
from mlx_moe.pipeline.shard import ExpertShard, Shard, ShardSpec


@dataclass(frozen=True, slots=True)
class Holding:
    """A shard, or an expert peer's part of one. `head` and `mtp` are the coordinator's, if it is here."""

    shard: Shard | ExpertShard
    head: LoadedEmbeddingAndLMHead | None
    mtp: MultiTokenPrediction | None
    dtype: mx.Dtype
    weights_bytes: int
    arrays: Held


def load_holding(
    checkpoint: Checkpoint,
    config: ModelConfig,
    spec: ShardSpec,
    *,
    coordinates: bool,
    with_mtp: bool = False,
    memory_share: float = memory.SOFT_LIMIT,
    progress: loader.Progress | None = None,
    held: Held | None = None,
) -> Holding:
    """Load a shard; with the coordinator's ends if it `coordinates`. Weights may take `memory_share` of the budget.

    `with_mtp` adds the MTP layer to these ends, if the checkpoint has one. `held` is what another shard of the same
    checkpoint has left in memory, see `loader.load`.

    Raises:
        CheckpointError: files that are damaged or contradict each other.
        InsufficientMemoryError: before anything is read.
    """
    ends = head_parameters(config)
    dtype = loader.compute_dtype(find(checkpoint, ends))
    parameters = spec.parameters(config)
    if coordinates:
        parameters = [*ends, *parameters]
    if with_mtp := coordinates and with_mtp and has_mtp(checkpoint, config):
        parameters += mtp_parameters(config)
    stored = find(checkpoint, parameters)
    memory.require(sum(s.memory_bytes(dtype.size) for s in stored), f"model {checkpoint.directory}", memory_share)
    arrays = {} if held is None else held
    loaded = loader.load(checkpoint, stored, dtype, progress, arrays)
    head = LoadedEmbeddingAndLMHead.build(config, loaded, dtype) if coordinates else None
    mtp = MultiTokenPrediction.build(config, loaded, head) if with_mtp and head is not None else None
    kind = ExpertShard if spec.experts_only else Shard
    shard = kind.build(spec, config, loaded, dtype)
    return Holding(shard, head, mtp, dtype, loaded.nbytes, arrays)
