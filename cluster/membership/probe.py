"""The child process that measures this machine: python -m cluster.membership.probe.

Takes about a second and prints one line of JSON for `Hardware.from_json`. It is a process of its own because the daemon
does not import MLX, and so that the memory used for measuring is released.
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
"""Duration of each of the two measurements, after one round that is not counted."""

READ_BYTES = 512 << 20
"""Size of the matrix that is read: many times the size of the caches."""

COLUMNS = 4096
GPU_SIDE = 4096
CPU_SIDE = 256
"""Rows and columns of the matrix product: enough to fill the device, and computed in a small part of SECONDS."""


def measure() -> Hardware:
    """Return this machine's hardware, as MLX reports and measures it."""
    info = mx.device_info()  # for a CPU, little more than its architecture
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
    """Measure a vector times a matrix, which like decoding reads each weight once, in GB/s."""
    rows = n_bytes // dtype.size // COLUMNS
    vector, matrix = mx.ones((1, rows), dtype), mx.ones((rows, COLUMNS), dtype)
    mx.eval(vector, matrix)
    return matrix.nbytes / _seconds(lambda: vector @ matrix) / 1e9


def _matmul_tflops(dtype: mx.Dtype, side: int) -> float:
    matrix = mx.ones((side, side), dtype)
    mx.eval(matrix)
    return 2 * side**3 / _seconds(lambda: matrix @ matrix) / 1e12


def _seconds(compute: Callable[[], mx.array]) -> float:
    """Return the median seconds that evaluating `compute()` takes."""
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
