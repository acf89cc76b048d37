"""Placement: which node holds which layers and experts. People may edit it as JSON and pass it back.

Knows nothing about how it was found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from mlx_moe.checkpoint.recipe import AS_STORED, Recipe
from mlx_moe.config import ModelConfig, QuantizationConfig
from mlx_moe.decoding.chunking import DEFAULT_RULE, ChunkRule
from mlx_moe.errors import InvalidRequestError

MOST = (1 << 31) - 1
"""The largest count in a plan: of positions, users, chunks."""

MOST_BYTES = 1 << 60
MOST_LAYERS = 9999

T = TypeVar("T")

OwnedExperts = Mapping[int, tuple[int, ...]]
"""Indices of owned experts by layer, ascending."""


@dataclass(frozen=True, slots=True)
class ExpertPeer:
    """A node that owns only experts of a stage's layers."""

    node_id: str
    owned_experts: OwnedExperts


@dataclass(frozen=True, slots=True)
class StagePlacement:
    """A range of layers and their leader: the node that holds their attention, router, shared experts and KV cache.

    `owned_experts` lists the leader's experts in layers that are split; in all other layers it owns every expert.
    """

    node_id: str
    layers: range
    owned_experts: OwnedExperts = field(default_factory=dict)
    peers: tuple[ExpertPeer, ...] = ()

    def owners(self, layer: int, n_experts: int) -> dict[str, tuple[int, ...]]:
        """Return the experts of an MoE layer that each node owns, by node id, the leader first."""
        owned = {self.node_id: self.owned_experts.get(layer, tuple(range(n_experts)))}
        return owned | {peer.node_id: peer.owned_experts[layer] for peer in self.peers if layer in peer.owned_experts}


@dataclass(frozen=True, slots=True)
class Standby:
    """A spare copy of the weights of one stage's layers, in the memory of a node that does not run them."""

    node_id: str
    layers: range


@dataclass(frozen=True, slots=True)
class Placement:
    """A whole model on nodes; `stages` are in the order of its layers.

    `content_hash` identifies the checkpoint, "" if it is unknown. `kv_positions` is the number of positions, of all
    requests together, for which every stage has KV room. `node_bytes` has the bytes of weights by node id. `chunks` is
    the rule by which prompts are cut: placements with the same rule compute bit-identical results. `recipe` says how
    weights are quantized while they are loaded. `standby` is a spare copy of a stage, from which a repair reads.
    """

    model: str
    content_hash: str
    stages: tuple[StagePlacement, ...]
    context_tokens: int
    concurrency: int
    kv_positions: int
    node_bytes: Mapping[str, int]
    chunks: ChunkRule = DEFAULT_RULE
    recipe: Recipe = AS_STORED
    standby: Standby | None = None

    @property
    def coordinator(self) -> str:
        """The first stage's node: it holds the embedding, final norm, lm_head and multi-token prediction layer."""
        return self.stages[0].node_id

    @property
    def node_ids(self) -> list[str]:
        """The ids of all nodes that hold a part, stage by stage, each leader before its peers; the standby's last."""
        running = self.running_ids
        if self.standby is not None and self.standby.node_id not in running:
            running.append(self.standby.node_id)
        return running

    @property
    def running_ids(self) -> list[str]:
        """The ids of all nodes that compute, as `node_ids`."""
        return [node_id for stage in self.stages for node_id in (stage.node_id, *(p.node_id for p in stage.peers))]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {
            "model": self.model,
            "content_hash": self.content_hash,
            "context_tokens": self.context_tokens,
            "concurrency": self.concurrency,
            "kv_positions": self.kv_positions,
            "node_bytes": dict(self.node_bytes),
            "chunks": asdict(self.chunks),
            "recipe": asdict(self.recipe),
            "standby": None if self.standby is None else _standby_to_json(self.standby),
            "stages": [
                {
                    "node_id": stage.node_id,
                    "layers": [stage.layers.start, stage.layers.stop],
                    "owned_experts": _experts_to_json(stage.owned_experts),
                    "peers": [
                        {"node_id": peer.node_id, "owned_experts": _experts_to_json(peer.owned_experts)}
                        for peer in stage.peers
                    ],
                }
                for stage in self.stages
            ],
        }

    @classmethod
    def parse(cls, text: str) -> Placement:
        """Read a placement from the text of its JSON object. Raises InvalidRequestError."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequestError(f"the plan is not JSON: {exc}") from exc
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: object) -> Placement:
        """Read a placement.

        Raises:
            InvalidRequestError: a field is invalid; the message names it, its value and what is expected.
        """
        plan = _Fields(value, "plan")
        placement = cls(
            model=plan.take("model", str),
            content_hash=plan.take("content_hash", str),
            stages=tuple(_stage(stage, f"stage {i}") for i, stage in enumerate(plan.take("stages", list))),
            context_tokens=plan.count("context_tokens", 1),
            concurrency=plan.count("concurrency", 1),
            kv_positions=plan.count("kv_positions", 0),
            node_bytes=plan.section("node_bytes").counts(),
            chunks=_chunks(plan.section("chunks")) if "chunks" in plan else DEFAULT_RULE,
            recipe=_recipe(plan.section("recipe")) if "recipe" in plan else AS_STORED,
            standby=_standby(plan.section("standby")) if "standby" in plan and not plan.is_null("standby") else None,
        )
        plan.end()
        if not placement.stages:
            raise InvalidRequestError("plan: there must be at least one stage, got none")
        return placement


def validate(placement: Placement, config: ModelConfig) -> None:
    """Check that a placement has every layer and every expert of a model exactly once, and no node twice.

    A spare copy is of a later stage without peers, on a node that does not run it.

    Raises:
        InvalidRequestError: it does not; the message names the layer, the expert or the node.
    """
    roles = Counter(placement.running_ids)
    twice = [node_id for node_id, count in roles.items() if count > 1]
    if twice:
        raise InvalidRequestError(f"plan: node {twice[0]} has two roles; a node leads one stage or is one's peer")
    end = 0
    for i, stage in enumerate(placement.stages):
        if stage.layers.start != end or not stage.layers:
            raise InvalidRequestError(f"plan: stage {i} must hold layers from {end} on, got {_span(stage.layers)}")
        end = stage.layers.stop
        _validate_experts(i, stage, config)
    if end != config.num_hidden_layers:
        raise InvalidRequestError(f"plan: the stages hold {end} layers, the model has {config.num_hidden_layers}")
    if (spare := placement.standby) is not None and not any(
        stage.layers == spare.layers and stage.node_id != spare.node_id and not stage.peers
        for stage in placement.stages[1:]
    ):
        raise InvalidRequestError(
            f"plan: standby has layers {_span(spare.layers)}; it must have those of a later stage without peers, on "
            f"another node"
        )


def _validate_experts(index: int, stage: StagePlacement, config: ModelConfig) -> None:
    n_experts = config.moe.n_routed_experts
    split = set(stage.owned_experts).union(*(peer.owned_experts for peer in stage.peers))
    for layer in sorted(split):
        if layer not in stage.layers or layer not in config.moe_layers:
            raise InvalidRequestError(
                f"plan: stage {index} splits layer {layer}, which is not an MoE layer of that stage"
            )
        owners = Counter(e for owned in stage.owners(layer, n_experts).values() for e in owned)
        wrong = next((e for e in sorted({*owners, *range(n_experts)}) if owners[e] != 1 or e >= n_experts), None)
        if wrong is not None:
            raise InvalidRequestError(
                f"plan: expert {wrong} of layer {layer} is owned {owners[wrong]} times; each of the {n_experts} "
                f"experts needs one owner"
            )


class _Fields:
    """Takes the fields of a JSON object one by one; fields left at the end are misspelled, and `end` reports them."""

    def __init__(self, value: object, source: str) -> None:
        if not isinstance(value, dict):
            raise InvalidRequestError(f"{source} must be an object, got {_shown(value)}")
        self._values = dict(value)
        self._source = source

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, kind: type[T]) -> T:
        if key not in self._values:
            raise InvalidRequestError(f"{self._source}: {key} is missing")
        value = self._values.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidRequestError(f"{self._source}: {key} must be {kind.__name__}, got {_shown(value)}")
        return value

    def is_null(self, key: str) -> bool:
        """Return whether a field is null; take it if so."""
        is_null = key in self._values and self._values[key] is None
        if is_null:
            del self._values[key]
        return is_null

    def count(self, key: str, minimum: int, most: int = MOST) -> int:
        value = self.take(key, int)
        if not minimum <= value <= most:
            limit = f"{minimum} or more" if value < minimum else f"at most {most}"
            raise InvalidRequestError(f"{self._source}: {key} must be {limit}, got {_shown(value)}")
        return value

    def counts(self) -> dict[str, int]:
        return {key: self.count(key, 0, MOST_BYTES) for key in list(self._values)}

    def section(self, key: str) -> _Fields:
        return _Fields(self.take(key, dict), f"{self._source}: {key}")

    def layers(self) -> range:
        layers = _indices(self.take("layers", list), f"{self._source}: layers")
        if len(layers) != 2 or max(layers) > MOST_LAYERS:
            raise InvalidRequestError(
                f"{self._source}: layers must be [first, one past the last] of at most {MOST_LAYERS}, "
                f"got {_shown(layers)}"
            )
        return range(*layers)

    def experts(self) -> dict[int, tuple[int, ...]]:
        return {_index(key, self._source): _indices(self.take(key, list), self._source) for key in list(self._values)}

    def end(self) -> None:
        if self._values:
            raise InvalidRequestError(f"{self._source}: {min(map(str, self._values))[:80]} is not a field of it")


def _stage(value: object, source: str) -> StagePlacement:
    fields = _Fields(value, source)
    stage = StagePlacement(
        layers=fields.layers(),
        node_id=fields.take("node_id", str),
        owned_experts=fields.section("owned_experts").experts(),
        peers=tuple(_peer(peer, f"{source}: peer {i}") for i, peer in enumerate(fields.take("peers", list))),
    )
    fields.end()
    return stage


def _chunks(fields: _Fields) -> ChunkRule:
    rule = ChunkRule(fields.count("wanted", 1), fields.count("shortest", 1), fields.count("longest", 1))
    fields.end()
    return rule


def _recipe(fields: _Fields) -> Recipe:
    recipe = Recipe(_quantization(fields, "experts"), _quantization(fields, "others"))
    fields.end()
    return recipe


def _quantization(fields: _Fields, key: str) -> QuantizationConfig | None:
    if fields.is_null(key):
        return None
    section = fields.section(key)
    found = QuantizationConfig(section.count("group_size", 1), section.count("bits", 1), section.take("mode", str))
    section.end()
    return found


def _peer(value: object, source: str) -> ExpertPeer:
    fields = _Fields(value, source)
    peer = ExpertPeer(fields.take("node_id", str), fields.section("owned_experts").experts())
    fields.end()
    return peer


def _index(text: str, source: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise InvalidRequestError(f"{source}: {_shown(text)} is not the index of a layer")
    return int(text)


def _indices(values: list[Any], source: str) -> tuple[int, ...]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise InvalidRequestError(f"{source} must be indices, got {_shown(values)}")
    return tuple(values)


def _standby(spare: _Fields) -> Standby:
    standby = Standby(spare.take("node_id", str), spare.layers())
    spare.end()
    return standby


def _standby_to_json(standby: Standby) -> dict[str, Any]:
    return {"node_id": standby.node_id, "layers": [standby.layers.start, standby.layers.stop]}


def _experts_to_json(owned: OwnedExperts) -> dict[str, list[int]]:
    return {str(layer): list(experts) for layer, experts in owned.items()}


def _span(layers: range) -> str:
    return f"[{layers.start}, {layers.stop})"


def _shown(value: object) -> str:
    return repr(value)[:80]
