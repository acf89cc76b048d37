"""Hardware: a node's chip, memory and measured speed. A child process measures it: the daemon does not import MLX."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import json
import logging
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import ClusterError

PROBE = (sys.executable, "-P", "-m", "cluster.membership.probe")
DEADLINE_S = 30.0
"""For a measurement that takes about a second; Metal may compile its kernels first."""

MAX_TEXT = 200
MAX_ERROR_CHARACTERS = 500

_TYPES = {
    "chip": str,
    "backend": str,
    "dtype": str,
    "memory_bytes": int,
    "budget_bytes": int,
    "bandwidth_gbps": float,
    "matmul_tflops": float,
    "platform": str,
    "mlx_version": str,
    "measured_at": float,
}

_MOST = {
    "memory_bytes": 1 << 46,  # 64 TiB
    "budget_bytes": 1 << 46,
    "bandwidth_gbps": 1e6,
    "matmul_tflops": 1e6,
    "measured_at": 1e11,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware of one machine.

    `chip` is for example "Apple M4 Pro", or a CPU's model; `backend` is "metal", "cuda" or "cpu"; `dtype` is the type
    in which a bfloat16 checkpoint is computed. MLX may use `budget_bytes` of `memory_bytes`. Measured are
    `bandwidth_gbps`, the rate in GB/s at which weights are read, and `matmul_tflops`, the speed of a large matrix
    product. `measured_at` is Unix time.
    """

    chip: str
    backend: str
    dtype: str
    memory_bytes: int
    budget_bytes: int
    bandwidth_gbps: float
    matmul_tflops: float
    platform: str
    mlx_version: str
    measured_at: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Hardware:
        """Read a JSON object from a cache file or another node. Raises ClusterError if it is not plausible."""
        if not isinstance(value, dict):
            raise ClusterError(f"hardware is described by a JSON object, not by {type(value).__name__}")
        for name, kind in _TYPES.items():
            given = value.get(name)
            if type(given) is not kind or not _is_plausible(given, _MOST.get(name, 0)):
                raise ClusterError(f"hardware with {name}={str(given)[:40]!r}, which no machine has")
        return cls(**{name: value[name] for name in _TYPES})


async def hardware(cache: Path) -> Hardware:
    """Return this machine's hardware: from `cache` if machine and MLX are unchanged, else measured and stored there.

    Raises:
        ClusterError: it cannot be measured; the message has the output of the measuring process.
    """
    machine = await _machine()
    try:
        kept = json.loads(cache.read_text())
        if kept["machine"] == machine:
            return Hardware.from_json(kept["hardware"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ClusterError) as exc:
        log.debug("hardware is measured: cache=%s reason=%r", cache, exc)
    measured = await _measure()
    try:  # not atomic: a truncated file is not JSON, and the hardware is measured again
        cache.write_text(json.dumps({"machine": machine, "hardware": measured.to_json()}))
    except OSError as exc:
        log.warning("hardware is measured again at the next start: cache=%s error=%s", cache, exc)
    return measured


async def _machine() -> str:
    """Return a text that changes when the measurement may no longer be valid."""
    if sys.platform == "darwin":
        # People raise the GPU's memory limit for larger models, which changes the budget
        chip = await _output("sysctl", "-n", "machdep.cpu.brand_string", "iogpu.wired_limit_mb")
    else:
        chip = cpu_name()
    memory = psutil.virtual_memory().total
    return f"{chip.strip()} | {memory} | {platform.platform()} | MLX {mlx_version()}"


def mlx_version() -> str:
    """Return the version of the installed MLX without importing it."""
    return importlib.metadata.version("mlx")


def cpu_name() -> str:
    """Return the CPU's model, or its architecture if the system does not tell the model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


async def _measure() -> Hardware:
    output = await _output(*PROBE)
    try:
        return Hardware.from_json(json.loads(output))
    except ValueError as exc:
        raise ClusterError(f"`{' '.join(PROBE)}` answered no JSON: {output[:MAX_ERROR_CHARACTERS]!r}") from exc


async def _output(*command: str) -> str:
    """Return what a program writes to stdout. Raises ClusterError if it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await process.communicate()
    except TimeoutError as exc:
        raise ClusterError(f"`{' '.join(command)}` did not finish within {DEADLINE_S:g} s; run it by hand") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = errors.decode(errors="replace").strip()[-MAX_ERROR_CHARACTERS:]
        raise ClusterError(f"`{' '.join(command)}` ended with code {process.returncode}: {said}")
    return output.decode(errors="replace")


def _is_plausible(value: Any, most: float) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= MAX_TEXT and value.isprintable()
    return bool(0 < value <= most)  # false for NaN
