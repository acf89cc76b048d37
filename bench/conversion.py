"""Memory of a conversion, and going on after kill -9: python -m bench.conversion DIRECTORY [KILLS].

Writes a checkpoint of 2 GB (float32, 12 layers) below DIRECTORY, converts it to 4 bits undisturbed, then again in
processes that are killed when a part of the files is there, and compares both with each other and mlx-lm's answer with
ours.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

SOURCE = """
import sys
from pathlib import Path
from bench.synthetic import DEEPSEEK, write_checkpoint
config = DEEPSEEK | {"n_routed_experts": 24, "qk_nope_head_dim": 64}
write_checkpoint(Path(sys.argv[1]), config, bits=None)
"""
"""In a process of its own: a child's peak memory begins at its parent's size."""

ANSWERS = """
import sys
from pathlib import Path
import mlx.core as mx
import mlx_moe
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model
prompt, path = list(range(3, 35)), Path(sys.argv[1])
ours = [token.id for token in mlx_moe.load(path).generate(mlx_moe.Request.exactly(prompt, 16))]
model, _ = load_model(path)
theirs = [int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=16)]
print("the same" if ours == theirs else f"{ours} here, {theirs} by mlx-lm")
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), seconds and peak of resident memory."""

    code: int
    seconds: float
    peak_bytes: int


def main(directory: str, kills: int = 2) -> None:
    """Print sizes, times, peaks and comparisons."""
    source, whole, killed = (Path(directory, name) for name in ("source", "whole", "killed"))
    if not source.exists():
        subprocess.run([sys.executable, "-c", SOURCE, str(source)], cwd=ROOT, check=True)
    for path in (whole, killed):
        shutil.rmtree(path, ignore_errors=True)
    source_bytes = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    undisturbed = _convert(source, whole)
    written_bytes = sum(path.stat().st_size for path in whole.glob("*.safetensors"))
    print(f"source {source_bytes / 1e9:.2f} GB, converted {written_bytes / 1e9:.2f} GB")
    print(f"undisturbed: {undisturbed.seconds:.1f} s, peak {undisturbed.peak_bytes / 1e6:.0f} MB")
    n_files = len(list(whole.glob("model*.safetensors")))
    for kill in range(1, kills + 1):
        ended = _convert(source, killed, kill * n_files // (kills + 1))
        n_there = len(list(killed.glob("model*.safetensors")))
        print(f"killed ({ended.code}) after {ended.seconds:.1f} s: {n_there} of {n_files} files are there")
    resumed = _convert(source, killed)
    print(f"resumed: {resumed.seconds:.1f} s, peak {resumed.peak_bytes / 1e6:.0f} MB")
    names = sorted(path.name for path in whole.iterdir())
    _, differing, missing = filecmp.cmpfiles(whole, killed, names, shallow=False)
    same = not differing and not missing and names == sorted(path.name for path in killed.iterdir())
    print(f"files of both conversions: {'the same bytes' if same else f'differ: {differing + missing}'}")
    answers = subprocess.run([sys.executable, "-c", ANSWERS, str(killed)], cwd=ROOT, check=True, capture_output=True)
    print(f"greedy tokens of mlx-lm and of this engine: {answers.stdout.decode().strip()}")


def _convert(source: Path, directory: Path, kill_at_files: int | None = None) -> Ended:
    """Convert in a process; kill it when the directory has a number of files, while it makes the next one."""
    command = [sys.executable, "-m", "cli", "convert", str(source), str(directory), "--bits", "4"]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    if kill_at_files is not None:
        while len(list(directory.glob("model*.safetensors"))) < kill_at_files:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(process.returncode, time.monotonic() - started, usage.ru_maxrss * unit)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
