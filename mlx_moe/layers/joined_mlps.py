"""JoinedMLPs: experts whose gate and up projections are one product, with biases if the model has them.

Sources: gpt-oss model card, arXiv 2508.10925, section 2.2; transformers' `gpt_oss` for the numbers.
Shapes: E experts, D hidden_size, I width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlx_moe.layers.weights import LoadedParameters

Activation = Callable[[mx.array, mx.array], mx.array]
"""Maps gate and up `[..., I]` to `[..., I]`."""


def clamped_swiglu(gate: mx.array, up: mx.array, alpha: float, limit: float) -> mx.array:
    """Return gate * sigmoid(alpha * gate) * (up + 1), after gate was limited above, and up on both sides."""
    gate = mx.minimum(gate, limit)
    return (mx.clip(up, -limit, limit) + 1) * (gate * mx.sigmoid(gate * alpha))


class JoinedMLPs:
    """The StackedMLPs of such experts; `gate_up_proj` gives gate and up together, `[E, 2I, D]`."""

    def __init__(self, activation: Activation, parameters: LoadedParameters) -> None:
        self._activation = activation
        self._gate_up = parameters.stored("gate_up_proj")
        self._down = parameters.stored("down_proj")
        self._gate_up_bias, self._down_bias = (
            _rows(parameters.find_vector(f"{name}.bias")) for name in ("gate_up_proj", "down_proj")
        )

    def __call__(self, x: mx.array, places: mx.array, *, by_expert: bool) -> mx.array:
        """See StackedMLPs."""
        joined = self._gate_up.gather_matmul(x, places, sorted_indices=by_expert)
        if self._gate_up_bias is not None:
            joined = joined + self._gate_up_bias[places]
        if self._gate_up.alternating:
            gate, up = joined[..., ::2], joined[..., 1::2]
        else:
            gate, up = mx.split(joined, 2, axis=-1)
        y = self._down.gather_matmul(self._activation(gate, up), places, sorted_indices=by_expert)
        return y if self._down_bias is None else y + self._down_bias[places]


def _rows(bias: mx.array | None) -> mx.array | None:
    """Return biases `[E, ...]` as rows `[E, 1, out]`."""
    return None if bias is None else bias.reshape(bias.shape[0], 1, -1)
