"""Replay of a long answer after the loss of a worker: python -m bench.replay CHECKPOINT [TOKENS].

Three nodes. An answer of TOKENS (1000) is written without drafts, once undisturbed; once the middle stage's worker is
killed with -9 after TOKENS. What is written is computed again, one position a frame, several frames in flight.
"""

from __future__ import annotations

import os
import sys
import time

from bench.measurement import layer_shares
from bench.nodes import Nodes, greedy, running_nodes
from cluster.client import Waiting, Wanted

N_NODES = 3
PROMPT_TOKENS = 64
AFTER = 8
"""Tokens that are written after the loss."""


def main(path: str, tokens: int) -> None:
    """Print the seconds of writing the tokens and of computing them again."""
    with running_nodes([{0, 1}] * N_NODES) as nodes:
        for _ in nodes.own.load(Wanted(path, nodes.placement(path, layer_shares(path, N_NODES)), draft="none")):
            pass
        model = nodes.model()
        answer = model.new_conversation().answer(greedy(PROMPT_TOKENS, tokens + AFTER))
        undisturbed = [token.id for token in answer]
        written_s = answer.stats.decode_s * tokens / (tokens + AFTER)
        replayed_s, same = _replayed(nodes, tokens, undisturbed)
    print(
        f"{tokens} tokens: written in {written_s:.2f} s, computed again in {replayed_s:.2f} s: "
        f"{written_s / replayed_s:.2f} times as fast; same tokens: {same}; load {os.getloadavg()[0]:.1f}"
    )


def _replayed(nodes: Nodes, tokens: int, undisturbed: list[int]) -> tuple[float, bool]:
    """Return the seconds from the first to the last position computed again, and whether the answer is the same."""
    times: list[float] = []

    def waiting(waits: Waiting | None) -> None:
        if waits is None or waits.total:
            times.append(time.perf_counter())

    answer = nodes.model().new_conversation().answer(greedy(PROMPT_TOKENS, tokens + AFTER), waiting=waiting)
    ids = []
    for token in answer:
        ids.append(token.id)
        if len(ids) == tokens:
            nodes.workers()[1].kill()
    return times[-1] - times[0], ids == undisturbed


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
