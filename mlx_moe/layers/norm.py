"""Norm: root mean square normalisation. Source: arXiv 1910.07467."""

from __future__ import annotations

import mlx.core as mx


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """Normalise the last axis of x; the result has x's dtype, also where the weight stays float32."""
    return mx.fast.rms_norm(x, weight, eps).astype(x.dtype)
