"""Tokens per second of all users together: python -m bench.users CHECKPOINT [ANSWER_TOKENS] [ROUNDS].

Two nodes, each pinned to one core. The requests start at the same time and differ, so that they share no KV cache.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bench.measurement import layer_shares
from bench.nodes import greedy, running_nodes
from cluster.client import RemoteModel

USERS = (1, 2, 4)
PROMPT_TOKENS = 8


def main(path: str, answer_tokens: int = 64, rounds: int = 5) -> None:
    """Print a row per number of users: tokens per second together, and the ratio to one user, round by round."""
    with running_nodes([{0}, {1}]) as nodes:
        model = nodes.load(path, layer_shares(path, 2))
        together(model, 1, answer_tokens, seed=1)
        rates: dict[int, list[float]] = {users: [] for users in USERS}
        for number in range(rounds):
            for users in USERS:
                rates[users].append(together(model, users, answer_tokens, seed=100 * number))
    print(f"{'users':>5} {'tokens/s':>9} {'ratio (median of rounds)':>25}  min..max")
    for users, measured in rates.items():
        ratios = sorted(rate / alone for rate, alone in zip(measured, rates[1], strict=True))
        print(
            f"{users:5} {statistics.median(measured):9.1f} {statistics.median(ratios):25.2f}  "
            f"{ratios[0]:.2f}..{ratios[-1]:.2f}"
        )


def together(model: RemoteModel, users: int, answer_tokens: int, seed: int) -> float:
    """Return the tokens per second of concurrent answers, from the first request to the last token."""

    def answer(user: int) -> int:
        conversation = model.new_conversation()
        try:
            return len(list(conversation.answer(greedy(PROMPT_TOKENS, answer_tokens, seed + user))))
        finally:
            conversation.close()

    with ThreadPoolExecutor(users) as pool:
        started = time.perf_counter()
        tokens = sum(pool.map(answer, range(users)))
        return tokens / (time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
