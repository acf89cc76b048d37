"""Norm: root mean square normalisation. Source: arXiv 1910.07467."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """Normalise the last axis of x; the result has x's dtype, also where the weight stays float32."""
    return mx.fast.rms_norm(x, weight, eps).astype(x.dtype)


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """The norm with a weight `[D]`."""

    weight: mx.array
    eps: float

    def __call__(self, x: mx.array) -> mx.array:
        """Map x `[..., D]` to the same shape."""
        return rms_norm(x, self.weight, self.eps)
