"""Loading: loads the byte ranges of a role from this node's disk, or from other nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Protocol

import mlx.core as mx

from cluster.worker.node_files import NodeFiles, Progress
from cluster.worker.remote_experts import RemoteExperts
from cluster.worker.role import Role
from mlx_moe import families, memory
from mlx_moe.checkpoint.held import Held
from mlx_moe.config import ModelConfig
from mlx_moe.decoding.drafting import Drafter, choose_drafter
from mlx_moe.layers.cache_costs import KEPT_ROWS
from mlx_moe.notes import notes
from mlx_moe.pipeline.embedding_and_lm_head import EmbeddingAndLMHead
from mlx_moe.pipeline.holding import ExpertHolding, Holding, load_experts, load_holding
from mlx_moe.pipeline.link import RunningStage
from mlx_moe.pipeline.stage import Past, Stage
from mlx_moe.text.generation_defaults import GenerationDefaults
from mlx_moe.text.text_process import TextProcess
from mlx_moe.text.tokenizer import Tokenizer

FREED_BYTES = 128 << 20
"""Limit of MLX's cache of freed buffers, so that a worker's peak is little more than its shard and KV caches."""


_TEXT_SUFFIXES = {".json", ".jinja", ".model"}


class LoadedStage(Protocol):
    """A stage's part of a model, loaded or emulated. Only the coordinator uses embedding, lm_head and tokenizer."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""

    @property
    def ends(self) -> EmbeddingAndLMHead | None:
        """Embedding and lm_head."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer."""

    @property
    def defaults(self) -> GenerationDefaults:
        """The model's default sampling parameters."""

    @property
    def new_drafter(self) -> Callable[[], Drafter] | None:
        """Creates a session's drafter; None: no drafts."""

    @property
    def weights_bytes(self) -> int:
        """Bytes in memory."""

    @property
    def spare_bytes(self) -> int:
        """Bytes of a spare copy of another stage in memory."""

    @property
    def float_bytes(self) -> int:
        """Bytes of the floats with which it computes."""

    @property
    def n_experts(self) -> int:
        """Experts owned over all layers."""

    @property
    def arrays(self) -> Held:
        """The loaded arrays, by their place in the files."""

    @property
    def remote_experts(self) -> RemoteExperts:
        """The experts of its layers on other nodes; connected before the first frame."""

    def stage(self, node: str, past: Past | None = None) -> RunningStage:
        """Return the stage that runs here; it continues with the `past` of an earlier one."""


@dataclass(frozen=True, slots=True)
class LoadedExperts:
    """Loaded experts of a stage that another node leads."""

    config: ModelConfig
    holding: ExpertHolding

    @property
    def weights_bytes(self) -> int:
        """Bytes in memory."""
        return self.holding.weights_bytes

    @property
    def spare_bytes(self) -> int:
        """Bytes of a spare copy of another stage in memory."""
        return self.holding.spare_bytes

    @property
    def n_experts(self) -> int:
        """Experts owned over all layers."""
        return self.holding.shard.spec.n_experts(self.config)

    @property
    def arrays(self) -> Held:
        """The loaded arrays, by their place in the files."""
        return self.holding.arrays


Loaded = LoadedStage | LoadedExperts
"""A role's part of a model."""


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """A stage's loaded part."""

    config: ModelConfig
    holding: Holding
    tokenizer: Tokenizer | None
    defaults: GenerationDefaults
    new_drafter: Callable[[], Drafter] | None
    remote_experts: RemoteExperts

    @property
    def ends(self) -> EmbeddingAndLMHead | None:
        """See LoadedStage."""
        return self.holding.head

    @property
    def weights_bytes(self) -> int:
        """See LoadedStage."""
        return self.holding.weights_bytes

    @property
    def spare_bytes(self) -> int:
        """See LoadedStage."""
        return self.holding.spare_bytes

    @property
    def float_bytes(self) -> int:
        """See LoadedStage."""
        return self.holding.dtype.size

    @property
    def n_experts(self) -> int:
        """See LoadedStage."""
        return self.holding.shard.spec.n_experts(self.config)

    @property
    def arrays(self) -> Held:
        """See LoadedStage."""
        return self.holding.arrays

    def stage(self, node: str, past: Past | None = None) -> Stage:
        """See LoadedStage."""
        return Stage(self.holding.shard, node, KEPT_ROWS, past)


def load(
    files: NodeFiles, role: Role, progress: Progress, draft: str = "", held: Held | None = None
) -> LoadedShard | LoadedExperts:
    """Load the part of a role, and its drafter if other stages would be idle: see `choose_drafter`.

    `held` has the arrays that an earlier role of the same model left in memory, see `loader.load`.

    Raises:
        CheckpointError: the files have changed since they were compared, are damaged, or no source delivers them.
        InsufficientMemoryError: the weights do not fit; raised before anything is read.
        InvalidRequestError: the model cannot draft in the requested way.
    """
    mx.set_cache_limit(FREED_BYTES)
    source_name = "" if files.keep or files.conversion else files.source_name
    with files.open_for(role, draft, progress) as checkpoint:
        config = families.config_of(checkpoint)
        memory_share = memory.HARD_LIMIT  # the placement has counted KV caches and temporaries
        if not role.leads:
            experts = load_experts(
                checkpoint,
                config,
                role.shard_spec(),
                recipe=role.placement.recipe,
                memory_share=memory_share,
                progress=partial(progress, source_name),
                held=held,
                spare=role.spare_parameters(config),
            )
            return LoadedExperts(config, experts)
        reading = _reading(checkpoint.directory) if role.coordinates else None
        defaults = GenerationDefaults.read(checkpoint.directory)
        defaults = replace(defaults, notes=notes(role.placement.model, checkpoint, defaults))
        remote_experts = RemoteExperts(role.owners(config))
        holding = load_holding(
            checkpoint,
            config,
            role.shard_spec(),
            coordinates=role.coordinates,
            recipe=role.placement.recipe,
            with_mtp=role.loads_mtp(draft),
            peers=remote_experts,
            memory_share=memory_share,
            progress=partial(progress, source_name),
            held=held,
            spare=role.spare_parameters(config),
        )
        tokenizer = None if reading is None else reading.tokenizer
    new_drafter = None
    if tokenizer is not None and len(role.placement.stages) > 1:
        new_drafter = choose_drafter(draft, holding, config, tokenizer)
    return LoadedShard(config, holding, tokenizer, defaults, new_drafter, remote_experts)


class _Reading:
    """A tokenizer whose files are read by its process, within limits, before they are read here."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process = TextProcess(directory)
        self._process.begin()  # it reads while the weights are read here

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; waits for the process."""
        return Tokenizer.load_if_usable(self._directory, self._process)


def _reading(directory: Path) -> _Reading:
    """Return the tokenizer of a directory; the one of the last load, if the files are the same."""
    stats = [(path.name, path.stat()) for path in sorted(directory.iterdir()) if path.suffix in _TEXT_SUFFIXES]
    return _cached_reading(directory, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@lru_cache(maxsize=1)
def _cached_reading(directory: Path, _files: tuple[tuple[str, int, int], ...]) -> _Reading:
    return _Reading(directory)
