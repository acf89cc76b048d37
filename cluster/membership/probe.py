"""The child process that measures this machine: python -m cluster.membership.probe.

Takes about a second and prints one line of JSON, as `Hardware.from_json` reads it. A process of its own: the daemon
imports no MLX, and the memory that measuring takes is given back when it ends.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
import psutil

from cluster.membership.hardware import Hardware, cpu_name, mlx_version
from mlx_moe import memory

SECONDS = 0.3
"""For each of the two measurements, after one round that is not counted."""

READ_BYTES = 512 << 20
"""Many times what caches hold."""

COLUMNS = 4096
GPU_SIDE = 4096
CPU_SIDE = 256
"""Rows and columns of the product: long enough to fill the device, a small part of SECONDS to compute."""


def measure() -> Hardware:
    """Return this machine as MLX sees it."""
    info = mx.device_info()  # the CPU's tells little more than its architecture
    backend = _backend()
    dtype = memory.compute_dtype(mx.bfloat16)
    physical = int(psutil.virtual_memory().total)
    return Hardware(
        chip=cpu_name() if backend == "cpu" else str(info.get("device_name", cpu_name())),
        backend=backend,
        dtype=str(dtype).removeprefix("mlx.core."),
        memory_bytes=physical,
        budget_bytes=memory.budget_bytes(),
        bandwidth_gbps=_bandwidth_gbps(dtype, min(READ_BYTES, physical // 16)),
        matmul_tflops=_matmul_tflops(dtype, CPU_SIDE if backend == "cpu" else GPU_SIDE),
        platform=platform.platform(),
        mlx_version=mlx_version(),
        measured_at=time.time(),
    )


def _backend() -> str:
    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def _bandwidth_gbps(dtype: mx.Dtype, n_bytes: int) -> float:
    """Measure a vector times a matrix, which reads each weight once for one multiplication, as decoding does."""
    rows = n_bytes // dtype.size // COLUMNS
    vector, matrix = mx.ones((1, rows), dtype), mx.ones((rows, COLUMNS), dtype)
    mx.eval(vector, matrix)
    return matrix.nbytes / _seconds(lambda: vector @ matrix) / 1e9


def _matmul_tflops(dtype: mx.Dtype, side: int) -> float:
    matrix = mx.ones((side, side), dtype)
    mx.eval(matrix)
    return 2 * side**3 / _seconds(lambda: matrix @ matrix) / 1e12


def _seconds(compute: Callable[[], mx.array]) -> float:
    """Return the median time of evaluating what `compute` returns."""
    mx.eval(compute())
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        mx.eval(compute())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    print(json.dumps(measure().to_json()))
