"""Feed-forward: the dense MLP, and the activation that experts use too. Shapes: L positions, D hidden_size."""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.layers.steps import Steps
from mlx_moe.layers.weights import Linear, LoadedParameters


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Return silu(gate) * up. Source: arXiv 2002.05202."""
    return gate * mx.sigmoid(gate) * up


class MLP:
    """A dense gated feed-forward."""

    def __init__(self, parameters: LoadedParameters) -> None:
        self._gate_proj = parameters.linear("gate_proj")
        self._up_proj = parameters.linear("up_proj")
        self._down_proj = parameters.linear("down_proj")

    def steps(self, x: mx.array) -> Steps[mx.array]:
        """Map x `[L, D]` to `[L, D]`; yields nothing."""
        yield from ()
        return self(x)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x `[L, D]` to `[L, D]`."""
        return self._down_proj(swiglu(self._gate_proj(x), self._up_proj(x)))


class SigmoidGatedMLP:
    """A dense gated feed-forward, scaled at each position by the sigmoid of a linear map of its input."""

    def __init__(self, mlp: MLP, gate: Linear) -> None:
        self._mlp = mlp
        self._gate = gate

    def __call__(self, x: mx.array) -> mx.array:
        """Map x `[L, D]` to `[L, D]`."""
        return mx.sigmoid(self._gate(x)) * self._mlp(x)
