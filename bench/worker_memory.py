"""Each worker's peak memory against the size of its shard: python -m bench.worker_memory CHECKPOINT.

Linux only: the peak is VmHWM, the largest resident memory from the worker's start until after an answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from bench.measurement import layer_shares
from bench.nodes import greedy, running_nodes

SHAPES = {  # number of stages, and of expert peers of each
    "1 node": (1, ()),
    "2 stages": (2, ()),
    "4 stages": (4, ()),
    "2 stages, 1 peer each": (2, (1, 1)),
    "1 stage, 3 peers": (1, (3,)),
}
NODES = 4
PROMPT_TOKENS, ANSWER_TOKENS = 64, 4


def main(path: str) -> None:
    """Print a row per worker; the bound is 1.15 x its shard + 150 MB."""
    print(f"{'placement':22} {'worker':8} {'shard MB':>9} {'peak MB':>8} {'bound MB':>9} {'peak / bound':>13}")
    with running_nodes([{0, 1}] * NODES) as nodes:
        for name, (stages, peers) in SHAPES.items():
            model = nodes.load(path, layer_shares(path, stages), peers)
            written = sum(1 for _ in model.new_conversation().answer(greedy(PROMPT_TOKENS, ANSWER_TOKENS)))
            assert written == ANSWER_TOKENS
            holding = [(node.shown_name, node.holding) for node in nodes.status() if node.holding]
            for (node, held), worker in zip(holding, nodes.workers(), strict=True):
                shard, peak = held.weights_bytes, peak_bytes(worker)
                bound = 1.15 * shard + 150e6
                print(
                    f"{name:22} {node:8} {shard / 1e6:9.0f} {peak / 1e6:8.0f} {bound / 1e6:9.0f} {peak / bound:13.2f}",
                    flush=True,
                )


def peak_bytes(process: psutil.Process) -> int:
    """Return the largest resident memory of a process so far."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
