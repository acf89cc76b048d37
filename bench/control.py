"""Seconds until control is heard while nodes compute: python -m bench.control CHECKPOINT [PROMPT_TOKENS].

Three nodes: two stages, the second with an expert peer. Measures, in the middle of a chunk of the prompt and while an
answer is decoded: a cancel, until its reader is free and until each node keeps what it kept before; a status; an
unload; and a killed worker, until the reader of the answer has the error.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from bench.measurement import layer_shares
from bench.nodes import Nodes, greedy, running_nodes
from cluster.client import NodeStatus, RemoteModel
from mlx_moe.errors import MoeClusterError

POLL_S = 0.02
STATUSES = 20


class Reading:
    """An answer that a thread reads until it ends."""

    def __init__(self, model: RemoteModel, prompt_tokens: int, answer_tokens: int) -> None:
        seed = time.monotonic_ns() % 10_000
        self._conversation = model.new_conversation()
        self._answer = self._conversation.answer(greedy(prompt_tokens, answer_tokens, seed=seed))
        self.tokens = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Cancel it, wait until its reader is free, and close its conversation."""
        self._answer.close()
        self.wait()
        self._conversation.close()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._reader.join()

    def _read(self) -> None:
        with suppress(MoeClusterError):
            for _ in self._answer:
                self.tokens += 1


def main(path: str, prompt_tokens: int = 1024) -> None:
    """Print one measurement after the other."""
    with running_nodes([{0, 1}] * 3) as nodes:

        def computing(answer_tokens: int = 4) -> Reading:
            """Return an answer of which a chunk of the prompt is being computed."""
            model = nodes.load(path, layer_shares(path, 2), (0, 1))
            reading = Reading(model, prompt_tokens, answer_tokens)
            wait_for(lambda: any(_positions(node) for node in nodes.status()))
            return reading

        reading = computing()
        cancel("prefill", nodes, reading)
        reading = Reading(nodes.load(path, layer_shares(path, 2), (0, 1)), 16, 1000)
        wait_for(lambda: reading.tokens > 4)
        cancel("decode", nodes, reading)
        reading = computing()
        print(f"status in prefill: {max(timed(nodes.status) for _ in range(STATUSES)):.3f} s at most", flush=True)
        print(f"unload in prefill: {timed(lambda: nodes.unload()):.2f} s until it is done", end="", flush=True)
        print(f", the reader's error {timed(reading.wait):.2f} s later", flush=True)
        for number, worker in enumerate(("coordinator", "second stage", "expert peer")):
            reading = computing()
            nodes.workers()[number].kill()
            print(f"killed {worker} in prefill: the reader's error after {timed(reading.wait):.2f} s", flush=True)


def cancel(phase: str, nodes: Nodes, reading: Reading) -> None:
    """Cancel an answer, the only one; print when the reader is free, and when each node keeps nothing of it."""
    started = time.perf_counter()
    reading.close()
    print(f"cancel in {phase}: the reader is free after {time.perf_counter() - started:.3f} s", flush=True)
    free: dict[str, float] = {}
    while len(free) < 3:
        for node in nodes.status():
            if not _positions(node):
                free.setdefault(node.shown_name, time.perf_counter() - started)
        time.sleep(POLL_S)
    print("; ".join(f"{name} keeps nothing after {seconds:.2f} s" for name, seconds in sorted(free.items())))


def _positions(node: NodeStatus) -> int:
    return node.holding.stats.kv_positions if node.holding else 0


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    while not is_so():
        time.sleep(POLL_S)


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
