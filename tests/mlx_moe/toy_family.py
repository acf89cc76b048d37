"""A toy family for tests: its layers alternate grouped-query attention and a recurrent one, and MoE and dense halves.

It is registered as a real family would be: `registered` puts this module into the registry for one test. The recurrent
attention keeps a state and its values at the ends of the last few frames, so its cache rewinds only to those.
Shapes: L new positions, D hidden_size, H heads, W head_dim.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import pytest

from bench.synthetic import write_byte_tokenizer
from mlx_moe import families
from mlx_moe.checkpoint.parameter import Parameter, linear, vector
from mlx_moe.config import GQAConfig, ModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.errors import FrameError
from mlx_moe.families import registry
from mlx_moe.families.attention import GroupedQueryAttentionSpec
from mlx_moe.families.feed_forward import GatedExpertsSpec, MLPSpec, MoESpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec
from mlx_moe.layers.cache_costs import CacheCosts
from mlx_moe.layers.weights import LoadedParameters
from mlx_moe.rope_config import read_rope
from mlx_moe.summary import model_parameters

N_LAYERS = 4
MOE_LAYERS = frozenset({0, 3})
RECURRENT_LAYERS = frozenset({1, 3})
N_EXPERTS = 8
VOCAB_SIZE = 256
SNAPSHOTS = 4
"""Frames at whose ends a recurrent layer's state is kept, the newest one's included."""

CONFIG = {
    "model_type": "toy",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": N_EXPERTS,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "rope_theta": 10_000.0,
}


@dataclass(frozen=True, slots=True)
class ToyConfig(ModelConfig):
    """The configuration of a `toy`; both attentions have these heads."""

    attention: GQAConfig


def read_config(fields: ConfigFields) -> ToyConfig:
    """See Family."""
    attention = GQAConfig(
        num_attention_heads=fields.dimension("num_attention_heads"),
        num_key_value_heads=fields.dimension("num_key_value_heads"),
        head_dim=fields.dimension("head_dim"),
        qk_norm=False,
        attention_bias=False,
    )
    moe = MoEConfig(
        n_routed_experts=fields.dimension("num_experts"),
        num_experts_per_tok=fields.dimension("num_experts_per_tok"),
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=1,
        scoring_func="softmax",
        norm_topk_prob=True,
    )
    return ToyConfig.read(
        fields,
        model_type="toy",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=moe,
        moe_layers=MOE_LAYERS,
    )


def layer(config: ToyConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, norm_eps = f"model.layers.{index}", config.hidden_size, config.rms_norm_eps
    if index in config.moe_layers:
        moe_path = f"{path}.block_sparse_moe"
        experts = GatedExpertsSpec(moe_path, size, config.moe, names=("w1", "w3", "w2"))
        feed_forward: MLPSpec | MoESpec = MoESpec(TopKRouterSpec(moe_path, size, config.moe), experts)
    else:
        feed_forward = MLPSpec(f"{path}.mlp", size, config.intermediate_size)
    if index in RECURRENT_LAYERS:
        recurrent = RecurrentAttentionSpec(f"{path}.linear_attn", size, config.attention)
        return LayerSpec(path, size, norm_eps, recurrent, feed_forward, norms=("ln_1", "ln_2"))
    attention = GroupedQueryAttentionSpec(f"{path}.self_attn", size, config.attention, config.rope, norm_eps)
    return LayerSpec(path, size, norm_eps, attention, feed_forward)


@dataclass(frozen=True, slots=True)
class RecurrentAttentionSpec:
    """Linear attention with a decay a head."""

    path: str
    hidden_size: int
    config: GQAConfig

    is_latent = False
    flops = 0

    def parameters(self) -> list[Parameter]:
        """See AttentionSpec."""
        heads, width = self.config.num_attention_heads, self.config.num_attention_heads * self.config.head_dim
        projections = [
            linear(f"{self.path}.{name}", width, self.hidden_size) for name in ("q_proj", "k_proj", "v_proj")
        ]
        return [
            *projections,
            linear(f"{self.path}.o_proj", self.hidden_size, width),
            vector(f"{self.path}.decay", heads),
        ]

    def build(self, loaded: LoadedParameters) -> RecurrentAttention:
        """See AttentionSpec."""
        return RecurrentAttention(self.config, loaded.scope(self.path))

    def cache_costs(self, float_bytes: int) -> CacheCosts:
        """See AttentionSpec."""
        state_bytes = self.config.num_attention_heads * self.config.head_dim**2 * float_bytes
        return CacheCosts(fixed_bytes=SNAPSHOTS * state_bytes)


class RecurrentAttention:
    """The state `[H, W, W]` fades by the decay, and each position adds its key times its value."""

    def __init__(self, config: GQAConfig, loaded: LoadedParameters) -> None:
        self._heads = config.num_attention_heads
        self._decay = mx.sigmoid(loaded.vector("decay"))[:, None, None]
        self._empty = mx.zeros((self._heads, config.head_dim, config.head_dim), self._decay.dtype)
        self._q_proj = loaded.linear("q_proj")
        self._k_proj = loaded.linear("k_proj")
        self._v_proj = loaded.linear("v_proj")
        self._o_proj = loaded.linear("o_proj")

    def new_cache(self) -> SnapshotCache:
        """See Attention."""
        return SnapshotCache()

    def __call__(self, x: mx.array, cache: SnapshotCache, outputs: int) -> mx.array:
        """See Attention."""
        n_new = x.shape[0]
        q, k, v = (
            projection(x).reshape(n_new, self._heads, -1) for projection in (self._q_proj, self._k_proj, self._v_proj)
        )
        state = self._empty if cache.state is None else cache.state
        rows = []
        for i in range(n_new):  # one after the other: the bits do not depend on where a frame ends
            state = self._decay * state + k[i][:, :, None] * v[i][:, None, :]
            rows.append((q[i][:, None, :] @ state)[:, 0])
        cache.append(n_new, state)
        return self._o_proj(mx.stack(rows[n_new - outputs :]).reshape(outputs, -1))

    def together(self, x: mx.array, caches: Sequence[SnapshotCache]) -> mx.array:
        """See Attention."""
        return mx.concatenate([self(x[i : i + 1], cache, 1) for i, cache in enumerate(caches)])


class SnapshotCache:
    """A LayerCache of the state at the ends of the last SNAPSHOTS frames; position 0 needs none."""

    def __init__(self) -> None:
        self._snapshots: list[tuple[int, mx.array]] = []

    @property
    def state(self) -> mx.array | None:
        """The newest state; None at position 0."""
        return self._snapshots[-1][1] if self._snapshots else None

    @property
    def length(self) -> int:
        """See LayerCache."""
        return self._snapshots[-1][0] if self._snapshots else 0

    def append(self, n_new: int, state: mx.array) -> None:
        """Keep the state after so many more positions."""
        self._snapshots.append((self.length + n_new, state))
        del self._snapshots[:-SNAPSHOTS]

    def rewind(self, position: int) -> int:
        """See LayerCache."""
        if position > self.length:
            raise FrameError(f"a frame starts at position {position} but only {self.length} positions are kept")
        while self.length > position:
            self._snapshots.pop()
        return self.length

    def fork(self, positions: int) -> SnapshotCache:
        """See LayerCache."""
        fork = SnapshotCache()
        fork._snapshots = list(self._snapshots)
        fork.rewind(positions)
        return fork

    @property
    def nbytes(self) -> int:
        """See LayerCache."""
        return sum(state.nbytes for _, state in self._snapshots)

    @property
    def arrays(self) -> list[mx.array]:
        """See LayerCache."""
        return [state for _, state in self._snapshots]


@contextmanager
def registered() -> Iterator[None]:
    """Let this family be known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.FAMILIES, "toy", sys.modules[__name__])
        yield


def write(directory: Path, seed: int = 0) -> Path:
    """Write a random checkpoint, each expert in tensors of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    write_byte_tokenizer(directory)
    mx.random.seed(seed)
    tensors = {}
    for parameter in model_parameters(families.read_config(CONFIG)):
        for source in parameter.layouts[min(1, len(parameter.layouts) - 1)].sources:
            random = mx.random.normal(source.shape)
            tensors[source.tensor] = random * source.shape[-1] ** -0.5 if parameter.matrix else random + 1
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "mlx"})
    return directory
