"""GatedDeltaNet: attention with a recurrent state, which the gated delta rule updates at each position.

Source: arXiv 2412.06464; transformers' `qwen3_next` for the numbers. Shapes: L new positions, D hidden_size, G key
heads, H value heads, K key_head_dim, V value_head_dim, C conv_width, W conv_kernel_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_moe.config import DeltaNetConfig
from mlx_moe.layers.delta_rule import DeltaInputs, advance
from mlx_moe.layers.norm import rms_norm
from mlx_moe.layers.recurrent_cache import Arrays, RecurrentCache
from mlx_moe.layers.weights import LoadedParameters

UNIT_EPS = 1e-6
"""Added to the squared length of queries and keys before they are divided by it."""


class GatedDeltaNet:
    """Attention whose cache has the state `[H, K, V]` float32, and the last W - 1 inputs of the convolution.

    `by_head`: the input projections are `in_proj_qkvz` and `in_proj_ba`, in the order of key heads.
    """

    def __init__(self, config: DeltaNetConfig, norm_eps: float, parameters: LoadedParameters, *, by_head: bool) -> None:
        self._config = config
        self._norm_eps = norm_eps
        names = ("qkvz", "ba") if by_head else ("qkv", "z", "b", "a")
        self._in_proj = [parameters.linear(f"in_proj_{name}") for name in names]
        self._by_head = by_head
        self._kernel = parameters.vector("conv1d.weight").reshape(config.conv_width, -1).T  # [W, C]
        self._dt_bias = parameters.vector("dt_bias")
        self._rate = mx.exp(parameters.vector("A_log"))
        self._norm = parameters.vector("norm.weight")
        self._out_proj = parameters.linear("out_proj")

    def new_cache(self) -> RecurrentCache:
        """See Attention."""
        c = self._config
        state = mx.zeros((c.num_value_heads, c.key_head_dim, c.value_head_dim))
        return RecurrentCache((state, mx.zeros((c.conv_kernel_dim - 1, c.conv_width), self._kernel.dtype)), self._fold)

    def __call__(self, x: mx.array, cache: RecurrentCache, outputs: int) -> mx.array:
        """See Attention."""
        inputs, z = self._inputs(x)
        heads = self._append(inputs, cache)
        return self._output(heads[-outputs:].astype(x.dtype), z[-outputs:])

    def together(self, x: mx.array, caches: Sequence[RecurrentCache]) -> mx.array:
        """See Attention."""
        inputs, z = self._inputs(x)
        rows = (tuple(array[i : i + 1] for array in inputs) for i in range(len(caches)))
        heads = [self._append(row, cache) for row, cache in zip(rows, caches, strict=True)]
        return self._output(mx.concatenate(heads).astype(x.dtype), z)

    def _inputs(self, x: mx.array) -> tuple[Arrays, mx.array]:
        """Return what positions are folded from: the convolution's inputs `[L, C]`, log decay and beta `[L, H]`.

        Further z `[L, H, V]`, the gate of the output.
        """
        mixed, z, b, a = self._project(x)
        log_decay = -self._rate * nn.softplus(a.astype(mx.float32) + self._dt_bias)
        return (mixed, log_decay, mx.sigmoid(b).astype(mx.float32)), z

    def _append(self, inputs: Arrays, cache: RecurrentCache) -> mx.array:
        """Fold positions of one sequence into its state; return their heads `[L, H, V]` float32."""
        state, heads = self._advance(cache.state, inputs)
        cache.append(heads.shape[0], inputs, state)
        return heads

    def _output(self, heads: mx.array, z: mx.array) -> mx.array:
        """Map heads `[L, H, V]` to `[L, D]`."""
        normed, gate = rms_norm(heads, self._norm, self._norm_eps), z.astype(mx.float32)
        gated = (normed * (gate * mx.sigmoid(gate))).astype(heads.dtype)
        return self._out_proj(gated.reshape(heads.shape[0], -1))

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Return the convolution's inputs `[L, C]`, z `[L, H, V]`, b and a `[L, H]`."""
        c, n_new = self._config, x.shape[0]
        if not self._by_head:
            mixed, z, b, a = (projection(x) for projection in self._in_proj)
            return mixed, z.reshape(n_new, c.num_value_heads, -1), b, a
        qkvz, ba = (projection(x).reshape(n_new, c.num_key_heads, -1) for projection in self._in_proj)
        values = c.value_width // c.num_key_heads
        *qkv, z = mx.split(qkvz, [c.key_head_dim, 2 * c.key_head_dim, 2 * c.key_head_dim + values], axis=-1)
        b, a = (part.reshape(n_new, -1) for part in mx.split(ba, 2, axis=-1))
        mixed = mx.concatenate([part.reshape(n_new, -1) for part in qkv], axis=-1)
        return mixed, z.reshape(n_new, c.num_value_heads, -1), b, a

    def _fold(self, state: Arrays, inputs: Arrays) -> Arrays:
        """Return the state after one more position."""
        return self._advance(state, inputs)[0]

    def _advance(self, state: Arrays, inputs: Arrays) -> tuple[Arrays, mx.array]:
        """Return the state after more positions, and their heads `[L, H, V]` float32."""
        c, (recurrent, tail), (mixed, log_decay, beta) = self._config, state, inputs
        n_new = mixed.shape[0]
        window = mx.concatenate([tail, mixed])  # [W - 1 + L, C]
        tail = mx.contiguous(window[n_new:])  # a copy: a slice would keep the whole window in memory
        shifted = (window[i : i + n_new].astype(mx.float32) * kernel for i, kernel in enumerate(self._kernel))
        convolved = sum(shifted, mx.zeros(())).astype(mixed.dtype)
        convolved = (convolved * mx.sigmoid(convolved)).astype(mx.float32)
        q, k, v = mx.split(convolved, [c.key_width, 2 * c.key_width], axis=-1)
        shared = c.num_value_heads // c.num_key_heads
        q, k = (_unit(part.reshape(n_new, c.num_key_heads, -1)) for part in (q, k))
        q, k = (mx.repeat(part.transpose(1, 0, 2), shared, axis=0) for part in (q * c.key_head_dim**-0.5, k))
        v = v.reshape(n_new, c.num_value_heads, -1).transpose(1, 0, 2)
        recurrent, heads = advance(recurrent, DeltaInputs(q, k, v, log_decay.T, beta.T))
        return (recurrent, tail), heads.transpose(1, 0, 2)


def _unit(x: mx.array) -> mx.array:
    """Scale vectors to the length 1."""
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + UNIT_EPS)
