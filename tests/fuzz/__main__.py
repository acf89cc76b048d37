"""python -m tests.fuzz [--seconds N] [--target T ...] [--seed S]: fuzz each target for N seconds; keep findings."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.fuzzing import check, fuzz, keep, kept
from tests.fuzz.targets import targets


def main() -> int:
    """Print a row for each target; return how many inputs were not handled."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each target")
    parser.add_argument("--target", action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    logging.disable()
    os.environ["RUST_BACKTRACE"] = "0"  # the tokenizers library panics on some damage, which is translated
    n_findings = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        print(f"seed {arguments.seed}", flush=True)
        print(f"{'target':20} {'executions':>10} {'slowest s':>9} {'findings':>8}")
        for target in targets(Path(directory)):
            if arguments.target and target.name not in arguments.target:
                continue
            findings = [found for path in kept(target) if (found := check(target, path.read_bytes())[0])]
            outcome = fuzz(target, arguments.seed, seconds=arguments.seconds)
            findings += outcome.findings.values()
            print(f"{target.name:20} {outcome.executions:10,} {outcome.slowest_s:9.3f} {len(findings):8}", flush=True)
            for finding in findings:
                print(f"    {keep(target, finding)}: {finding.what} ({finding.where})", flush=True)
            n_findings += len(findings)
    return min(n_findings, 100)


if __name__ == "__main__":
    sys.exit(main())
