"""Users on one node, against mlx-lm's batched generation: python -m bench.batched CHECKPOINT [ANSWER_TOKENS] [ROUNDS].

Tokens per second of all users together, prompts included. Both run in alternation on the same machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from bench.measurement import layer_shares
from bench.nodes import running_nodes
from bench.users import PROMPT_TOKENS, together

USERS = (1, 2, 4, 8)


def main(path: str, answer_tokens: int = 32, rounds: int = 3) -> None:
    """Print a row per number of users: tokens per second of both, and the median ratio of the rounds."""
    ours: dict[int, list[float]] = {users: [] for users in USERS}
    theirs: dict[int, list[float]] = {users: [] for users in USERS}
    with running_nodes([{0, 1}]) as nodes:
        model = nodes.load(path, layer_shares(path, 1))
        together(model, 1, answer_tokens, seed=1)
        for number in range(rounds):
            for users in USERS:
                ours[users].append(together(model, users, answer_tokens, seed=100 * number))
                theirs[users].append(mlx_lm(path, users, answer_tokens, seed=100 * number))
                print(f"{users} users: {ours[users][-1]:.2f} and {theirs[users][-1]:.2f} tokens/s", flush=True)
    print(f"{'users':>5} {'tokens/s':>9} {'times one user':>15} {'mlx-lm':>9} {'times mlx-lm':>13}")
    for users in USERS:
        ratios = [a / b for a, b in zip(ours[users], theirs[users], strict=True)]
        of_one = [a / b for a, b in zip(ours[users], ours[1], strict=True)]
        print(
            f"{users:5} {statistics.median(ours[users]):9.2f} {statistics.median(of_one):15.2f} "
            f"{statistics.median(theirs[users]):9.2f} {statistics.median(ratios):13.2f}"
        )


def mlx_lm(path: str, users: int, answer_tokens: int, seed: int) -> float:
    """Return mlx-lm's tokens per second, measured in a process of its own."""
    numbers = map(str, (users, PROMPT_TOKENS, answer_tokens, seed))
    command = [sys.executable, "-m", "bench.peers.mlx_lm_batch", path, *numbers]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
