"""Holding: what one process has in memory: a shard, and with the coordinator embedding and lm_head; or only experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_moe import memory
from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.held import Held
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe
from mlx_moe.checkpoint.stored_parameter import StoredParameter, find
from mlx_moe.config import ModelConfig
from mlx_moe.families import has_mtp, head_parameters, mtp_parameters
from mlx_moe.layers.experts import NO_PEERS, ExpertPeers
from mlx_moe.layers.weights import LoadedParameters
from mlx_moe.pipeline.embedding_and_lm_head import LoadedEmbeddingAndLMHead
from mlx_moe.pipeline.mtp import MultiTokenPrediction
from mlx_moe.pipeline.shard import ExpertShard, Shard
from mlx_moe.pipeline.shard_spec import ShardSpec


@dataclass(frozen=True, slots=True)
class Holding:
    """A shard in memory. Only with the coordinator, `head` and possibly `mtp` are there."""

    shard: Shard
    head: LoadedEmbeddingAndLMHead | None
    mtp: MultiTokenPrediction | None
    dtype: mx.Dtype
    weights_bytes: int
    spare_bytes: int
    arrays: Held


@dataclass(frozen=True, slots=True)
class ExpertHolding:
    """The experts that an expert peer has in memory of a shard that another node runs."""

    shard: ExpertShard
    weights_bytes: int
    spare_bytes: int
    arrays: Held


def load_holding(
    checkpoint: Checkpoint,
    config: ModelConfig,
    spec: ShardSpec,
    *,
    coordinates: bool,
    peers: ExpertPeers = NO_PEERS,
    with_mtp: bool = False,
    memory_share: float = memory.SOFT_LIMIT,
    progress: loader.Progress | None = None,
    held: Held | None = None,
    recipe: Recipe = AS_STORED,
    spare: Sequence[Parameter] = (),
) -> Holding:
    """Load a shard; with embedding and lm_head if it `coordinates`. Weights may use `memory_share` of the budget.

    `peers` own the experts that the shard does not. `with_mtp` adds the MTP layer if the shard coordinates and the
    checkpoint has one. `held` is what another shard of the same checkpoint has left in memory, see `loader.load`.
    `recipe` quantizes while loading. The arrays of `spare` parameters are only kept, for another load.

    Raises:
        CheckpointError: files are damaged or contradict each other.
        InsufficientMemoryError: the weights do not fit; raised before anything is read.
    """
    dtype = _compute_dtype(checkpoint, config)
    parameters = spec.parameters(config)
    if coordinates:
        parameters = [*head_parameters(config), *parameters]
    if with_mtp := coordinates and with_mtp and has_mtp(checkpoint, config):
        parameters += mtp_parameters(config)
    arrays = {} if held is None else held
    kept = find(checkpoint, spare, recipe)
    loaded = _load(checkpoint, [*find(checkpoint, parameters, recipe), *kept], dtype, memory_share, progress, arrays)
    spare_bytes = sum(s.memory_bytes(dtype.size) for s in kept)
    head = LoadedEmbeddingAndLMHead.build(config, loaded, dtype) if coordinates else None
    mtp = MultiTokenPrediction.build(config, loaded, head) if with_mtp and head is not None else None
    shard = Shard.build(spec, config, loaded, dtype, peers)
    return Holding(shard, head, mtp, dtype, loaded.nbytes - spare_bytes, spare_bytes, arrays)


def load_experts(
    checkpoint: Checkpoint,
    config: ModelConfig,
    spec: ShardSpec,
    *,
    memory_share: float = memory.SOFT_LIMIT,
    progress: loader.Progress | None = None,
    held: Held | None = None,
    recipe: Recipe = AS_STORED,
    spare: Sequence[Parameter] = (),
) -> ExpertHolding:
    """Load only the owned experts of a shard, quantized by `recipe`, and `spare` arrays. Raises as `load_holding`."""
    dtype = _compute_dtype(checkpoint, config)
    arrays = {} if held is None else held
    stored, kept = find(checkpoint, spec.expert_parameters(config), recipe), find(checkpoint, spare, recipe)
    loaded = _load(checkpoint, [*stored, *kept], dtype, memory_share, progress, arrays)
    spare_bytes = sum(s.memory_bytes(dtype.size) for s in kept)
    shard = ExpertShard.build(spec, config, loaded, dtype)
    return ExpertHolding(shard, loaded.nbytes - spare_bytes, spare_bytes, arrays)


def _compute_dtype(checkpoint: Checkpoint, config: ModelConfig) -> mx.Dtype:
    return loader.compute_dtype(find(checkpoint, head_parameters(config)))


def _load(
    checkpoint: Checkpoint,
    stored: Sequence[StoredParameter],
    dtype: mx.Dtype,
    memory_share: float,
    progress: loader.Progress | None,
    held: Held,
) -> LoadedParameters:
    memory.require(sum(s.memory_bytes(dtype.size) for s in stored), f"model {checkpoint.directory}", memory_share)
    return loader.load(checkpoint, stored, dtype, progress, held)
