"""EmulatedShard: a worker's replacement of a loaded shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx_moe
from cluster.emulation.drafters import ShadowDrafter, StatedDrafter
from cluster.emulation.embedding_and_lm_head import EmulatedEmbeddingAndLMHead
from cluster.emulation.scenario import FLOAT_BYTES, GRAPH_S, WIRES, Scenario
from cluster.emulation.stage import Clock, EmulatedStage
from cluster.errors import PlacementError
from cluster.placement import ModelCosts, NodeCapacity
from cluster.placement.prediction import StageTiming
from cluster.placement.timing import draft_s, head_s
from cluster.worker.remote_experts import RemoteExperts
from cluster.worker.role import Role
from mlx_moe import families
from mlx_moe.checkpoint import json_file, library
from mlx_moe.checkpoint.held import Held
from mlx_moe.config import ModelConfig
from mlx_moe.decoding.drafting import Drafter, NgramDrafter
from mlx_moe.known_models import KNOWN_MODELS
from mlx_moe.pipeline.stage import Past
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.generation_defaults import GenerationDefaults
from mlx_moe.text.tokenizer import Tokenizer

GREEDY = GenerationDefaults(SamplingParams(temperature=0.0))


@dataclass(frozen=True, slots=True)
class EmulatedShard:
    """A role's part of an emulated model. It uses the demo model's tokenizer."""

    role: Role
    scenario: Scenario
    costs: ModelCosts
    config: ModelConfig
    clock: Clock
    tokenizer: Tokenizer | None
    defaults: GenerationDefaults
    weights_bytes: int = 0
    spare_bytes: int = 0
    n_experts: int = 0
    float_bytes: int = FLOAT_BYTES

    @property
    def arrays(self) -> Held:
        """It keeps nothing."""
        return {}

    @property
    def ends(self) -> EmulatedEmbeddingAndLMHead:
        """See LoadedStage."""
        wire_s = WIRES[self.scenario.wire].seconds(self.costs.hidden_size * FLOAT_BYTES)  # the hop from the last stage
        seconds = head_s(self.costs, self._node) + (wire_s if len(self.role.placement.stages) > 1 else 0.0)
        return EmulatedEmbeddingAndLMHead(
            self.scenario.script, self.config.vocab_size, self.costs.hidden_size, seconds, self.clock
        )

    @property
    def new_drafter(self) -> Callable[[], Drafter] | None:
        """See LoadedStage."""
        scenario, seconds = self.scenario, draft_s(self.costs, self._node, len(self.scenario.script))
        match scenario.draft:
            case "none":
                return None
            case "ngram":
                return NgramDrafter
            case "stated":
                return lambda: StatedDrafter(scenario.script, scenario.acceptance, scenario.seed, seconds, self.clock)
            case "mtp":
                demo = mlx_moe.load(library.DEMO, with_mtp=True)
                return lambda: ShadowDrafter(demo, seconds, self.clock)

    @property
    def remote_experts(self) -> RemoteExperts:
        """See LoadedStage; there are none."""
        return RemoteExperts({})

    def stage(self, node: str, past: Past | None = None) -> EmulatedStage:  # noqa: ARG002
        """See LoadedStage. It computes all again."""
        timing = StageTiming(self.costs, self.role.stage, self._nodes, self.scenario.links())
        wire = None if self.role.coordinates else WIRES[self.scenario.wire]
        is_last = self.role.index + 1 == len(self.role.placement.stages)
        return EmulatedStage(
            timing, node, self.costs.hidden_size, self.clock, wire=wire, overhead_s=GRAPH_S, is_last=is_last
        )

    @property
    def _nodes(self) -> dict[str, NodeCapacity]:
        return {node.node_id: node for node in self.scenario.nodes}

    @property
    def _node(self) -> NodeCapacity:
        return self._nodes[self.role.node_id]


def load(name: str, role: Role) -> EmulatedShard:
    """Return a role's part of a scenario. Raises ClusterError, InvalidRequestError."""
    if not role.leads:
        raise PlacementError("an emulation places whole layers only; this placement has expert peers")
    scenario = Scenario.from_name(name)
    demo = library.locate(library.DEMO)
    tokenizer = Tokenizer.load(demo) if role.coordinates else None
    spoken = families.read_config(json_file.read(demo / "config.json"))
    config = replace(families.read_config(KNOWN_MODELS[scenario.model].config), vocab_size=spoken.vocab_size)
    return EmulatedShard(role, scenario, scenario.costs(), config, Clock(), tokenizer, GREEDY)
