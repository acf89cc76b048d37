"""Two nodes against one, and against mlx-lm's pipeline: python -m bench.pipeline CHECKPOINT [PROMPT ANSWER ROUNDS].

PROMPT and ANSWER are numbers of tokens. One user, greedy, the same prompt for all runtimes, which run in alternation
and one at a time. "0 | 1" means one core for each of two processes, "0 1 | 0 1" both cores for both: mlx-lm's ranks
poll their sockets without pause.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.measurement import Measurement, layer_shares
from bench.nodes import greedy, running_nodes
from cluster.client import RemoteModel
from cluster.timeline import SpanKind


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: tokens per second, and its tokens."""

    prefill_tps: float
    decode_tps: float
    tokens: list[int]


def main(path: str, prompt_tokens: int = 256, answer_tokens: int = 32, rounds: int = 3) -> None:
    """Print a row per runtime, with ratios to one node on one core."""
    sizes = (str(prompt_tokens), str(answer_tokens))
    with ExitStack() as stack:
        one_node = stack.enter_context(running_nodes([{0}]))
        two_nodes = stack.enter_context(running_nodes([{0}, {1}]))
        one = one_node.load(path, layer_shares(path, 1))
        two = two_nodes.load(path, layer_shares(path, 2))
        runtimes: dict[str, Callable[[], Run]] = {
            "one node, 0": lambda: _ours(one, prompt_tokens, answer_tokens),
            "two nodes, 0 | 1": lambda: _ours(two, prompt_tokens, answer_tokens),
            "mlx-lm alone, 0": lambda: _child("bench.peers.mlx_lm_one_machine", path, *sizes, cores="0"),
            "mlx-lm ranks, 0 | 1": lambda: _child("bench.peers.mlx_lm_two_ranks", path, *sizes, "0", "1"),
            "mlx-lm ranks, 0 1 | 0 1": lambda: _child("bench.peers.mlx_lm_two_ranks", path, *sizes, "0,1", "0,1"),
        }
        for model in (one, two):
            _ours(model, 8, 2)  # loads its weights into memory
        runs: dict[str, list[Run]] = {name: [] for name in runtimes}
        for number in range(rounds):
            for name in list(runtimes) if number % 2 == 0 else list(runtimes)[::-1]:
                runs[name].append(runtimes[name]())
                run = runs[name][-1]
                print(f"  {name}: prefill {run.prefill_tps:.2f}, decode {run.decode_tps:.2f}", flush=True)
        _print(runs)
        print("busy in prefill:", ", ".join(_busy(two, prompt_tokens)))


def _ours(model: RemoteModel, prompt_tokens: int, answer_tokens: int) -> Run:
    conversation = model.new_conversation()
    try:
        answer = conversation.answer(greedy(prompt_tokens, answer_tokens))
        tokens = [token.id for token in answer]
    finally:
        conversation.close()
    return Run(answer.stats.prompt_tokens / answer.stats.ttft_s, answer.stats.decode_tps, tokens)


def _child(module: str, *arguments: str, cores: str = "0,1") -> Run:
    command = ("taskset", "-c", cores, sys.executable, "-m", module, *arguments)
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    measured = Measurement(**json.loads(output.splitlines()[-1]))
    return Run(measured.prefill_tps, measured.decode_tps, measured.tokens)


def _print(runs: dict[str, list[Run]]) -> None:
    base, *others = runs.values()
    print(f"same tokens: {all(run.tokens == base[0].tokens for of_one in (base, *others) for run in of_one)}")
    print(
        f"{'runtime, cores':24}"
        + "".join(f" {f'{what}/s':>10} {'ratio':>6} {'min..max':>12}" for what in ("prefill", "decode"))
    )
    for name, of_one in runs.items():
        cells = []
        for figure in ("prefill_tps", "decode_tps"):
            values = [getattr(run, figure) for run in of_one]
            ratios = sorted(value / getattr(b, figure) for value, b in zip(values, base, strict=True))
            spread = f"{ratios[0]:.2f}..{ratios[-1]:.2f}"
            cells.append(f" {statistics.median(values):10.2f} {statistics.median(ratios):6.2f} {spread:>12}")
        print(f"{name:24}" + "".join(cells))


def _busy(model: RemoteModel, prompt_tokens: int) -> list[str]:
    """Return for each stage the share of a prefill's time that it spent computing."""
    model.timeline()  # drops earlier spans
    _ours(model, prompt_tokens, 1)
    stages = model.timeline().stages
    spans = [span for stage in stages for span in stage.of(SpanKind.PREFILL)]
    window = min(span.began_s for span in spans), max(span.ended_s for span in spans)
    return [f"{stage.node} {stage.busy_s(*window) / (window[1] - window[0]):.0%}" for stage in stages]


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
