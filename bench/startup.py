"""Seconds until `moe-cluster --help` has printed, and of Python's own start: python -m bench.startup [ROUNDS].

A test limits what it may import.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 10

COMMANDS = {"python": ("-c", "pass"), "moe-cluster --help": ("-m", "cli", "--help")}


def seconds(arguments: tuple[str, ...]) -> float:
    """Return the seconds that Python runs with these arguments."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the minimum and the median of rounds, in alternation."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    measured = [[seconds(arguments) for arguments in COMMANDS.values()] for _ in range(rounds)]
    for name, times in zip(COMMANDS, zip(*measured, strict=True), strict=True):
        print(f"{name:20} least {min(times):.3f} s, median {statistics.median(times):.3f} s")


if __name__ == "__main__":
    main()
