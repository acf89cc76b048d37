"""GatedDeltaNetSpec: the spec of Gated DeltaNet, an attention with a recurrent state in place of keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.parameter import Parameter, Sign, linear, vector, whole
from mlx_moe.config import DeltaNetConfig
from mlx_moe.layers.cache_costs import CacheCosts, recurrent

if TYPE_CHECKING:
    from mlx_moe.layers.gated_delta_net import GatedDeltaNet
    from mlx_moe.layers.weights import LoadedParameters

STATE_BYTES = 4
"""States are float32: they sum up all positions."""


@dataclass(frozen=True, slots=True)
class GatedDeltaNetSpec:
    """Gated DeltaNet with parameters below `path`.

    Its input projections are two, each in the order of key heads (`by_head`), or four, each of one thing.
    """

    path: str
    hidden_size: int
    config: DeltaNetConfig
    norm_eps: float
    by_head: bool

    is_latent = False
    flops = 0
    """A position's work does not depend on the kept ones; it is a small part of that of the projections."""

    @property
    def projections(self) -> dict[str, int]:
        """Output sizes of the input projections, by name."""
        c = self.config
        if self.by_head:
            return {"in_proj_qkvz": c.conv_width + c.value_width, "in_proj_ba": 2 * c.num_value_heads}
        return {
            "in_proj_qkv": c.conv_width,
            "in_proj_z": c.value_width,
            "in_proj_b": c.num_value_heads,
            "in_proj_a": c.num_value_heads,
        }

    def parameters(self) -> list[Parameter]:
        """See AttentionSpec."""
        path, c = self.path, self.config
        return [
            *(linear(f"{path}.{name}", size, self.hidden_size) for name, size in self.projections.items()),
            _convolution(path, c),
            vector(f"{path}.dt_bias", c.num_value_heads, float32=True),
            vector(f"{path}.A_log", c.num_value_heads, float32=True),
            vector(f"{path}.norm.weight", c.value_head_dim),
            linear(f"{path}.out_proj", self.hidden_size, c.value_width),
        ]

    def build(self, loaded: LoadedParameters) -> GatedDeltaNet:
        """See AttentionSpec."""
        from mlx_moe.layers.gated_delta_net import GatedDeltaNet

        return GatedDeltaNet(self.config, self.norm_eps, loaded.scope(self.path), by_head=self.by_head)

    def cache_costs(self, float_bytes: int) -> CacheCosts:
        """See AttentionSpec."""
        c = self.config
        state = STATE_BYTES * c.num_value_heads * c.key_head_dim * c.value_head_dim
        tail = float_bytes * (c.conv_kernel_dim - 1) * c.conv_width
        return recurrent(state + tail, float_bytes * c.conv_width + STATE_BYTES * 2 * c.num_value_heads)


def converted(path: str, config: DeltaNetConfig) -> Sign:
    """Return what tells a conversion by MLX from other checkpoints: the axis of the convolution's kernel was moved."""
    return Sign(f"{path}.conv1d.weight", (config.conv_width, config.conv_kernel_dim, 1))


def _convolution(path: str, config: DeltaNetConfig) -> Parameter:
    """Return the convolution's kernels, which have the same bytes in both layouts."""
    sign = converted(path, config)
    moved = replace(whole(sign.tensor, sign.shape), sign=sign)
    return Parameter(
        sign.tensor, (moved, whole(sign.tensor, (config.conv_width, 1, config.conv_kernel_dim))), matrix=False
    )
