"""Seconds until three nodes notice that something ended: python -m bench.losses.

Measures when a closed conversation's caches are freed on all nodes, when the reader of an answer gets the error of a
killed worker and of a killed node, and when the others count that node as lost. Tests check that these happen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from bench.nodes import Nodes, greedy, running_nodes
from cluster.errors import NodeLostError

LAYERS = (2, 2, 2)
POLL_S = 0.01


def until(is_so: Callable[[], bool]) -> float:
    """Wait until a condition is true; return the seconds it took."""
    started = time.perf_counter()
    while not is_so():
        time.sleep(POLL_S)
    return time.perf_counter() - started


def freed_s(nodes: Nodes) -> float:
    """Return the seconds until no node reports KV positions of a closed conversation."""
    conversation = nodes.load("demo", LAYERS).new_conversation()
    list(conversation.answer(greedy(300, 8)))

    def kept() -> int:
        return sum(node.holding.stats.kv_positions for node in nodes.status() if node.holding)

    until(lambda: kept() > 0)
    conversation.close()
    return until(lambda: kept() == 0)


def heard_s(nodes: Nodes, kill: Callable[[], None]) -> float:
    """Return the seconds until the reader of an answer gets an error after `kill`."""
    answer = nodes.load("demo", LAYERS).new_conversation().answer(greedy(60, 1900))
    next(answer)
    started = time.perf_counter()
    kill()
    with suppress(NodeLostError):
        list(answer)
        raise AssertionError("the answer ended before its loss was heard of")
    return time.perf_counter() - started


def main() -> None:
    """Measure one after the other; the last node is killed at the end."""
    every_core = set(range(os.cpu_count() or 1))
    with running_nodes([every_core] * 3) as nodes:
        print(f"a closed conversation is freed on all nodes after {freed_s(nodes):.2f} s")
        seconds = heard_s(nodes, lambda: nodes.workers()[1].kill())
        print(f"a killed worker is heard of by the answer's reader after {seconds:.2f} s")
        print(f"a killed node is heard of after {heard_s(nodes, nodes.daemons[2].kill):.2f} s")
        seconds = until(lambda: nodes.status()[2].state == "lost")
        print(f"and counts as lost {seconds:.2f} s later")


if __name__ == "__main__":
    main()
