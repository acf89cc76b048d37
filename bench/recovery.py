"""Recovery of an answer after the loss of a node: python -m bench.recovery CHECKPOINT.

Three nodes with the checkpoint on their disks. While an answer is written, a worker or a whole node is killed with -9,
without and with a spare copy of its stage; the answer must continue with the tokens that it has without the loss.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import psutil

from bench.measurement import layer_shares
from bench.nodes import Nodes, greedy, running_nodes
from cluster.client import RemoteModel, Wanted
from cluster.cost_reader import read_costs
from cluster.placement import with_standby

N_NODES = 3
PROMPT_TOKENS, ANSWER_TOKENS = 64, 60
BEFORE = (8, 40)
"""Tokens that are written before the loss."""


def main(path: str) -> None:
    """Print a row per loss."""
    print(
        f"{'killed':14} {'after tokens':>12} {'spared':>6} {'read MB':>8} {'ready after s':>13} {'longest wait s':>14} "
        f"{'same tokens':>11} {'load':>5}"
    )
    for name, kill in KILLS.items():
        for before, spared in itertools.product(BEFORE, (False, True)):
            with running_nodes([{0, 1}] * N_NODES) as nodes:
                model = _loaded(nodes, path, spared=spared)
                undisturbed = [t.id for t in model.new_conversation().answer(greedy(PROMPT_TOKENS, ANSWER_TOKENS))]
                answer = model.new_conversation().answer(greedy(PROMPT_TOKENS, ANSWER_TOKENS))
                ids, times = [], []
                for token in answer:
                    ids.append(token.id)
                    times.append(time.perf_counter())
                    if len(ids) == before:
                        kill(nodes)
                waits = [after - earlier for earlier, after in pairwise(times)]
                serving = nodes.own.status().serving
                load_s = serving.load_s if serving else 0.0
                *_, status = nodes.own.load(Wanted(path))
                read = sum(node.total_bytes for node in status.nodes)
                print(
                    f"{name:14} {before:12} {spared!s:>6} {read / 1e6:8.1f} {load_s:13.2f} {max(waits):14.2f} "
                    f"{ids == undisturbed!s:>11} {os.getloadavg()[0]:5.1f}",
                    flush=True,
                )


def _loaded(nodes: Nodes, path: str, *, spared: bool) -> RemoteModel:
    placement = nodes.placement(path, layer_shares(path, N_NODES))
    if spared:
        placement = with_standby(placement, read_costs(path, float_bytes=4), nodes.own.status().capacities())
        assert placement.standby is not None
    nodes.unload()
    for _ in nodes.own.load(Wanted(path, placement)):
        pass
    return nodes.model()


def _kill_worker(nodes: Nodes) -> None:
    nodes.workers()[1].kill()


def _kill_node(nodes: Nodes) -> None:
    _kill(nodes.daemons[1])


def _kill(daemon: psutil.Process) -> None:
    daemon.kill()


KILLS: dict[str, Callable[[Nodes], None]] = {"middle worker": _kill_worker, "middle node": _kill_node}

if __name__ == "__main__":
    main(sys.argv[1])
