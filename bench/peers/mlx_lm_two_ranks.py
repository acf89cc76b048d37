"""Measure mlx-lm's pipeline: python -m bench.peers.mlx_lm_two_ranks CHECKPOINT PROMPT ANSWER [CORES CORES].

Runs two ranks over the ring backend on loopback, as `mlx.launch -n 2 --backend ring` starts them: with a hostfile, and
the rank in the environment. CORES are two lists such as 0 1, or 0,1 0,1; without them the ranks are not pinned.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile

import mlx.core as mx
from mlx_lm.utils import sharded_load

from bench.peers.mlx_lm_one_machine import measured

RANKS = 2


def main(arguments: list[str]) -> None:
    """Run both ranks and print the Measurement of the first."""
    hosts = [[f"127.0.0.1:{port}"] for port in _free_ports(RANKS)]
    command = [sys.executable, "-m", "bench.peers.mlx_lm_two_ranks", *arguments]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as hostfile:
        json.dump(hosts, hostfile)
        hostfile.flush()
        ranks = [
            subprocess.Popen(
                command,
                env=os.environ | {"MLX_HOSTFILE": hostfile.name, "MLX_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(RANKS)
        ]
        outputs = [rank.communicate()[0] for rank in ranks]
    print(outputs[0].splitlines()[-1])


def _run_rank(rank: int, path: str, prompt_tokens: int, answer_tokens: int, cores: list[str]) -> None:
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores[rank].split(",")})
    group = mx.distributed.init(strict=True, backend="ring")
    measured(lambda: sharded_load(path, pipeline_group=group), prompt_tokens, answer_tokens).print()


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


if __name__ == "__main__":
    if rank := os.environ.get("MLX_RANK"):
        _run_rank(int(rank), sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        main(sys.argv[1:])
