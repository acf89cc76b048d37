"""Experts: the routed experts of one layer in this process, and the interface to those in other processes.

Knows nothing about the owners of the others. Shapes: L positions, D hidden_size, K experts chosen for each position, n
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_moe.errors import FrameError
from mlx_moe.layers.expert_dispatch import Pairs, is_by_expert
from mlx_moe.layers.feed_forward import swiglu
from mlx_moe.layers.steps import Steps
from mlx_moe.layers.weights import LoadedParameters


class RoutedExperts(Protocol):
    """All routed experts of one layer, in this process or elsewhere."""

    def steps(self, x: mx.array, indices: mx.array, meanwhile: mx.array | None) -> Steps[mx.array]:
        """Return the results `[L, K, D]` of the chosen experts, by indices `[L, K]`, for the rows of x `[L, D]`.

        `meanwhile` is a lazy array that is computed while other nodes are awaited, if there are any.
        """


class ExpertPeers(Protocol):
    """The other owners of a shard's experts."""

    def bind(self, layer: int, own: Experts | None) -> RoutedExperts:
        """Return all experts of a layer; `own` are those in this process."""


class StackedMLPs(Protocol):
    """The feed-forwards of some experts."""

    def __call__(self, x: mx.array, places: mx.array, *, by_expert: bool) -> mx.array:
        """Map x `[..., 1, D]` to the same shape by the experts at `places` in the stack; `by_expert`: see Pairs."""


class GatedMLPs:
    """Gated feed-forwards, each projection a stack."""

    def __init__(self, parameters: LoadedParameters) -> None:
        self._gate = parameters.weight("gate_proj")
        self._up = parameters.weight("up_proj")
        self._down = parameters.weight("down_proj")

    def __call__(self, x: mx.array, places: mx.array, *, by_expert: bool) -> mx.array:
        """See StackedMLPs."""
        gate = self._gate.gather_matmul(x, places, sorted_indices=by_expert)
        up = self._up.gather_matmul(x, places, sorted_indices=by_expert)
        return self._down.gather_matmul(swiglu(gate, up), places, sorted_indices=by_expert)


class Experts:
    """The owned experts of one layer, stacked, and the place of each expert in the stack."""

    def __init__(self, n_routed_experts: int, owned: Sequence[int], mlps: StackedMLPs) -> None:
        self._mlps = mlps
        self._place = np.full(n_routed_experts, -1, dtype=np.int32)
        self._place[list(owned)] = np.arange(len(owned))
        self.complete = len(owned) == n_routed_experts

    def steps(self, x: mx.array, indices: mx.array, meanwhile: mx.array | None) -> Steps[mx.array]:  # noqa: ARG002
        """See RoutedExperts. Requires that all experts are owned."""
        yield from ()
        return self(x, indices)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Return the results `[L, K, D]` of the chosen experts for the rows of x `[L, D]`; all must be owned."""
        if len(x) == 1:
            return self._mlps(x[:, None, None], indices, by_expert=False).squeeze(-2)
        chosen = indices.flatten()
        order = mx.argsort(chosen)
        by_expert = is_by_expert(len(x), chosen.size)
        y = self._mlps(x[order // indices.shape[-1]][:, None], chosen[order], by_expert=by_expert)
        return y.squeeze(-2)[mx.argsort(order)].reshape(*indices.shape, -1)

    def pairs(self, x: mx.array, pairs: Pairs) -> mx.array:
        """Return the results `[n, D]` of owned experts for rows of x `[L, D]`, bit-identical to those of a sole owner.

        Raises:
            FrameError: one of the experts is not owned.
        """
        places = self._place[pairs.experts]
        if (places < 0).any():
            missing = sorted({int(expert) for expert in pairs.experts[places < 0]})
            raise FrameError(f"experts {missing} are asked for, but owned elsewhere")
        rows = x[mx.array(pairs.positions)][:, None]
        return self._mlps(rows, mx.array(places), by_expert=pairs.by_expert).squeeze(-2)


class NoPeers:
    """The ExpertPeers of a shard that owns all experts of its layers."""

    def bind(self, layer: int, own: Experts | None) -> Experts:
        """See ExpertPeers."""
        assert own is not None, f"layer {layer} has no experts"  # a shard with split experts is given its peers
        assert own.complete, f"layer {layer} lacks experts"
        return own


NO_PEERS = NoPeers()
