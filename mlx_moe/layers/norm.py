"""Norms: by the root mean square (arXiv 1910.07467), and by mean and variance (LayerNorm, arXiv 1607.06450)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

Norm = Callable[[mx.array], mx.array]
"""Maps x `[..., D]` to the same shape."""


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


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """The norm with a weight and a bias `[D]`."""

    weight: mx.array
    bias: mx.array
    eps: float

    def __call__(self, x: mx.array) -> mx.array:
        """Map x `[..., D]` to the same shape."""
        return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)


def norm(weight: mx.array, bias: mx.array | None, eps: float) -> Norm:
    """Return the norm with these parameters: LayerNorm if there is a bias."""
    return RMSNorm(weight, eps) if bias is None else LayerNorm(weight, bias, eps)
