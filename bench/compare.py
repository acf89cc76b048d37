"""Compare this project with mlx-lm on one machine: python -m bench.compare CHECKPOINT [PROMPT ANSWER RUNS].

PROMPT and ANSWER are numbers of tokens. Both run in alternation. Prints each run, the medians, and the median of the
pairwise ratios, because single figures of a shared machine say little.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from bench.measurement import Measurement

RUNTIMES = {"moe-cluster": "bench.own", "mlx-lm": "bench.peers.mlx_lm_one_machine"}
FIGURES = ("load_s", "prefill_tps", "decode_tps", "mlx_peak_bytes", "process_peak_bytes")


def main(path: str, prompt_tokens: int = 128, answer_tokens: int = 64, runs: int = 5) -> None:
    """Run both `runs` times in alternation and print a table."""
    measured: dict[str, list[Measurement]] = {name: [] for name in RUNTIMES}
    for run in range(runs):
        order = list(RUNTIMES.items())
        for name, module in order if run % 2 == 0 else order[::-1]:
            command = [sys.executable, "-m", module, path, str(prompt_tokens), str(answer_tokens)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            measured[name].append(Measurement(**json.loads(output.splitlines()[-1])))
            print(name, {f: round(getattr(measured[name][-1], f), 3) for f in FIGURES}, flush=True)
    ours, theirs = measured.values()
    print(f"\nsame tokens: {all(m.tokens == ours[0].tokens for m in [*ours, *theirs])}")
    print(f"{'figure':20} {'moe-cluster':>14} {'mlx-lm':>14} {'ratio (median of pairs)':>24}  min..max")
    for figure in FIGURES:
        a, b = ([getattr(m, figure) for m in side] for side in (ours, theirs))
        ratios = sorted(x / y for x, y in zip(a, b, strict=True))
        print(
            f"{figure:20} {statistics.median(a):14.3f} {statistics.median(b):14.3f} "
            f"{statistics.median(ratios):24.3f}  {ratios[0]:.3f}..{ratios[-1]:.3f}"
        )


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
