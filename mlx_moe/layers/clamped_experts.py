"""ClampedMLPs: gpt-oss' experts: gate and up as one product, biases, and a clamped activation.

Source: gpt-oss model card, arXiv 2508.10925, section 2.2; transformers' `gpt_oss` for the numbers.
Shapes: E experts, D hidden_size, I width of an expert.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.layers.weights import LoadedParameters


def clamped_swiglu(gate: mx.array, up: mx.array, alpha: float, limit: float) -> mx.array:
    """Return gate * sigmoid(alpha * gate) * (up + 1), after gate was limited above, and up on both sides."""
    gate = mx.minimum(gate, limit)
    return (mx.clip(up, -limit, limit) + 1) * (gate * mx.sigmoid(gate * alpha))


class ClampedMLPs:
    """The StackedMLPs of experts with biases; `gate_up_proj` gives gate and up together, `[E, 2I, D]`."""

    def __init__(self, alpha: float, limit: float, parameters: LoadedParameters) -> None:
        self._alpha = alpha
        self._limit = limit
        self._gate_up = parameters.stored("gate_up_proj")
        self._gate_up_bias = _rows(parameters.vector("gate_up_proj.bias"))
        self._down = parameters.stored("down_proj")
        self._down_bias = _rows(parameters.vector("down_proj.bias"))

    def __call__(self, x: mx.array, places: mx.array, *, by_expert: bool) -> mx.array:
        """See StackedMLPs."""
        joined = self._gate_up.gather_matmul(x, places, sorted_indices=by_expert) + self._gate_up_bias[places]
        if self._gate_up.alternating:
            gate, up = joined[..., ::2], joined[..., 1::2]
        else:
            gate, up = mx.split(joined, 2, axis=-1)
        y = clamped_swiglu(gate, up, self._alpha, self._limit)
        return self._down.gather_matmul(y, places, sorted_indices=by_expert) + self._down_bias[places]


def _rows(bias: mx.array) -> mx.array:
    """Return biases `[E, ...]` as rows `[E, 1, out]`."""
    return bias.reshape(bias.shape[0], 1, -1)
