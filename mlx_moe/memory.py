"""Memory: how much memory a model may use on this machine, and how much a process has used."""

from __future__ import annotations

import resource
import sys

import mlx.core as mx
import psutil

from mlx_moe.errors import InsufficientMemoryError

CPU_BUDGET_SHARE = 0.75
"""Share of the machine's memory that is the budget on the CPU, where MLX states no working set size."""

SOFT_LIMIT = 0.85
"""Share of the budget above which a load is refused: the KV cache and temporaries need the rest."""

HARD_LIMIT = 0.95
"""Share of the budget that weights and KV caches may take together: temporaries need the rest."""


def compute_dtype(stored: mx.Dtype) -> mx.Dtype:
    """Return the dtype to compute in: the checkpoint's on Metal and CUDA, float32 on the CPU.

    On the CPU backend a quantized matrix product is 8 to 30 times slower in 16-bit floats than in float32 (measured).
    """
    return mx.float32 if mx.default_device() == mx.cpu else stored


def budget_bytes() -> int:
    """Return the bytes that weights, KV caches and temporaries may take together."""
    info = mx.device_info() if mx.default_device() != mx.cpu else {}
    limit = info.get("max_recommended_working_set_size")
    return int(limit) if limit else int(psutil.virtual_memory().total * CPU_BUDGET_SHARE)


def require(needed_bytes: int, what: str, share: float = SOFT_LIMIT) -> None:
    """Raise InsufficientMemoryError if `needed_bytes` exceed a share of the budget."""
    budget = budget_bytes()
    if needed_bytes > share * budget:
        raise InsufficientMemoryError(
            f"{what} needs {needed_bytes / 2**30:.1f} GiB; this machine may spend {share * budget / 2**30:.1f} "
            f"GiB ({share:.0%} of {budget / 2**30:.1f}): use a smaller checkpoint, fewer bits, or more machines"
        )


def kv_positions(weights_bytes: int, bytes_per_position: int) -> int:
    """Return the number of positions that all KV caches together may keep beside the weights."""
    return max(0, int(HARD_LIMIT * budget_bytes()) - weights_bytes) // bytes_per_position


def temporary_bytes() -> int:
    """Return the bytes left for temporaries beside weights and KV caches."""
    return int((1 - HARD_LIMIT) * budget_bytes())


def peak_memory_bytes() -> int:
    """Return the peak of MLX's memory in this process."""
    return int(mx.get_peak_memory())


def process_peak_bytes() -> int:
    """Return the peak of this process's resident memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
