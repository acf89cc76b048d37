"""Expert load: how often each expert of some layers was chosen, counted from a sample of the frames.

Shapes: L positions, D hidden_size, E experts, K experts chosen for each position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_moe.layers.experts import ExpertPeers, Experts, RoutedExperts
from mlx_moe.layers.steps import Steps

Counts = np.ndarray[Any, np.dtype[np.int64]]

SAMPLE = 16
"""Positions of a layer after which no more choices are kept until the next count."""


class ExpertLoad:
    """ExpertPeers that keep what the router chose; it is counted when somebody asks, not while a frame is computed."""

    def __init__(self, n_routed_experts: int, peers: ExpertPeers) -> None:
        self._peers = peers
        self._n_routed_experts = n_routed_experts
        self._layers: dict[int, _Observed] = {}
        self._counts: dict[int, Counts] = {}

    def bind(self, layer: int, own: Experts | None) -> RoutedExperts:
        """See ExpertPeers."""
        observed = self._layers[layer] = _Observed(self._peers.bind(layer, own))
        return observed

    def counts(self) -> Mapping[int, Counts]:
        """Return by layer how often each expert was chosen `[E]`, without layers that had no frame.

        To be called by the thread that computes.
        """
        for layer, observed in self._layers.items():
            if chosen := observed.take():
                joined = np.concatenate([np.array(indices).reshape(-1) for indices in chosen])
                counts = np.bincount(joined, minlength=self._n_routed_experts)
                self._counts[layer] = self._counts.get(layer, 0) + counts
        return self._counts


class _Observed:
    """RoutedExperts of a layer that keep the indices of some frames."""

    def __init__(self, experts: RoutedExperts) -> None:
        self._experts = experts
        self._kept: list[mx.array] = []
        self._room = SAMPLE

    def steps(self, x: mx.array, indices: mx.array, meanwhile: mx.array | None) -> Steps[mx.array]:
        """See RoutedExperts."""
        if self._room > 0:
            self._room -= indices.shape[0]
            self._kept.append(indices)
        return self._experts.steps(x, indices, meanwhile)

    def take(self) -> list[mx.array]:
        """Return the indices `[L, K]` of the frames since the last call."""
        taken, self._kept, self._room = self._kept, [], SAMPLE
        return taken
