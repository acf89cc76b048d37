"""Role: one node's part in a placement, and what it has to load."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import PlacementError
from cluster.placement.placement import Placement, StagePlacement
from mlx_moe import families
from mlx_moe.checkpoint import pull
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.config import ModelConfig
from mlx_moe.conversion import partial_conversion
from mlx_moe.conversion.partial_conversion import Rows
from mlx_moe.decoding.draft import wants_mtp
from mlx_moe.pipeline.shard_spec import ShardSpec


@dataclass(frozen=True, slots=True)
class Role:
    """One node's part of stage `index`: its leader, one of its expert peers, or one that only has a spare copy of it.

    The latter is like a peer that owns no experts.
    """

    placement: Placement
    node_id: str
    index: int

    @classmethod
    def of(cls, placement: Placement, node_id: str) -> Role:
        """Return a node's role. Raises PlacementError if it has none."""
        for index, stage in enumerate(placement.stages):
            if node_id in (stage.node_id, *(peer.node_id for peer in stage.peers)):
                return cls(placement, node_id, index)
        if placement.standby is not None and placement.standby.node_id == node_id:
            index = next(i for i, stage in enumerate(placement.stages) if stage.layers == placement.standby.layers)
            return cls(placement, node_id, index)
        raise PlacementError(f"this node has no part in the placement of {placement.model}")

    @classmethod
    def read(cls, placement: str, node_id: str) -> Role:
        """Return a node's role in a placement in JSON. Raises as `of`, and InvalidRequestError."""
        return cls.of(Placement.parse(placement), node_id)

    @property
    def stage(self) -> StagePlacement:
        """The stage."""
        return self.placement.stages[self.index]

    @property
    def leads(self) -> bool:
        """Whether it holds the stage's attention and KV caches instead of only experts."""
        return self.stage.node_id == self.node_id

    @property
    def coordinates(self) -> bool:
        """Whether it is the coordinator."""
        return self.leads and self.index == 0

    @property
    def next_node(self) -> str:
        """The next node of the ring."""
        stages = self.placement.stages
        return stages[(self.index + 1) % len(stages)].node_id

    @property
    def previous_node(self) -> str:
        """The previous node of the ring."""
        return self.placement.stages[self.index - 1].node_id

    def shard_spec(self) -> ShardSpec:
        """Return the layers and experts to hold."""
        if self.leads:
            return ShardSpec(self.stage.layers, self.stage.owned_experts)
        if self.node_id not in self.placement.running_ids:
            return ShardSpec(range(0))
        (peer,) = (peer for peer in self.stage.peers if peer.node_id == self.node_id)
        owned = {layer: peer.owned_experts.get(layer, ()) for layer in self.stage.layers}
        return ShardSpec(self.stage.layers, owned)

    @property
    def spare_layers(self) -> range:
        """The layers of which it has a spare copy; empty if there is none."""
        standby = self.placement.standby
        return standby.layers if standby is not None and standby.node_id == self.node_id else range(0)

    def spare_parameters(self, config: ModelConfig) -> list[Parameter]:
        """Return the parameters that it holds without running them: a spare copy of another stage."""
        return ShardSpec(self.spare_layers).parameters(config)

    def loads_mtp(self, draft: str) -> bool:
        """Whether the multi-token prediction layer, if there is one, drafts here, while other stages would be idle."""
        return self.coordinates and len(self.placement.stages) > 1 and wants_mtp(draft)

    def parameters(self, checkpoint: Checkpoint, config: ModelConfig, draft: str) -> list[Parameter]:
        """Return the parameters that are loaded for this role, those of a spare copy too."""
        spec, spare = self.shard_spec(), self.spare_parameters(config)
        if not self.leads:
            return spec.expert_parameters(config) + spare
        parameters = spec.parameters(config) + spare
        if self.coordinates:
            parameters += families.head_parameters(config)
        if self.loads_mtp(draft) and families.has_mtp(checkpoint, config):
            parameters += families.mtp_parameters(config)
        return parameters

    def ranges(self, checkpoint: Checkpoint, draft: str) -> dict[str, list[range]]:
        """Return the ranges of bytes that are read for this role, by the names of their files."""
        config = families.config_of(checkpoint)
        stored = find(checkpoint, self.parameters(checkpoint, config, draft))
        return checkpoint.by_file(piece for s in stored for array in s.arrays for piece in array.pieces)

    def is_kept_in(self, directory: Path, draft: str) -> bool:
        """Whether a directory has all of its part of the model quantized as it is placed."""
        if not partial_conversion.is_begun(directory):
            return False
        with Checkpoint.open(directory) as target, closing(Share(directory)) as share:
            return not pull.missing_bytes(share, self.ranges(target, draft))

    def lacking(self, source: Checkpoint, target: Checkpoint, share: Share, draft: str) -> list[Rows]:
        """Return which rows of its part a share lacks of `target`, the model quantized as it is placed."""
        parameters = self.parameters(target, families.config_of(target), draft)
        return partial_conversion.lacking(source, target, share, self.placement.recipe, parameters)

    def owners(self, config: ModelConfig) -> dict[int, dict[int, tuple[int, ...]]]:
        """Return, for each layer with split experts, those of the leader (0) and of each peer (1, ...)."""
        split = {layer for peer in self.stage.peers for layer, experts in peer.owned_experts.items() if experts}
        return {
            layer: dict(enumerate(self.stage.owners(layer, config.moe.n_routed_experts).values())) for layer in split
        }
