"""Replay of a long answer after the loss of a worker: python -m bench.replay CHECKPOINT [TOKENS].

Three nodes. An answer is written without drafts: undisturbed, and with the middle stage's worker killed with -9 when
TOKENS (1000) of it have been read. What is written by then is computed again, one position a frame, several frames in
flight; it is compared with the time in which the same tokens were written.
"""

from __future__ import annotations

import os
import sys
import time

from bench.measurement import layer_shares
from bench.nodes import Nodes, greedy, running_nodes
from cluster.client import Waiting, Wanted
from mlx_moe.decoding.request import Request

N_NODES = 3
PROMPT_TOKENS = 64
AFTER = 300
"""Tokens after those: the coordinator is ahead of who reads."""


def main(path: str, tokens: int) -> None:
    """Print the seconds of writing the tokens and of computing them again."""
    with running_nodes([{0, 1}] * N_NODES) as nodes:
        for _ in nodes.own.load(Wanted(path, nodes.placement(path, layer_shares(path, N_NODES)), draft="none")):
            pass
        model = nodes.model()
        request = greedy(PROMPT_TOKENS, tokens + AFTER)
        times, undisturbed = [], []
        for token in model.new_conversation().answer(request):
            undisturbed.append(token.id)
            times.append(time.perf_counter())
        count, replayed_s, same = _replayed(nodes, request, tokens, undisturbed)
    written_s = times[count - 1] - times[0]
    print(
        f"{count} tokens: written in {written_s:.2f} s, computed again in {replayed_s:.2f} s: "
        f"{written_s / replayed_s:.2f} times as fast; same tokens: {same}; load {os.getloadavg()[0]:.1f}"
    )


def _replayed(nodes: Nodes, request: Request, tokens: int, undisturbed: list[int]) -> tuple[int, float, bool]:
    """Return the number of tokens computed again, the seconds, and whether the answer is the same."""
    times: list[float] = []
    totals: list[int] = []

    def waiting(waits: Waiting | None) -> None:
        if waits is None or waits.total:
            times.append(time.perf_counter())
            totals.append(totals[-1] if waits is None else waits.total)

    answer = nodes.model().new_conversation().answer(request, waiting=waiting)
    ids = []
    for token in answer:
        ids.append(token.id)
        if len(ids) == tokens:
            nodes.workers()[1].kill()
    return totals[-1] - PROMPT_TOKENS, times[-1] - times[0], ids == undisturbed


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
