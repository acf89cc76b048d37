"""Measure mlx-lm on one machine: python -m bench.peers.mlx_lm_one_machine CHECKPOINT PROMPT_TOKENS ANSWER_TOKENS."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from bench.measurement import Measurement, prompt_ids
from mlx_moe.memory import process_peak_bytes


def main(path: str, prompt_tokens: int, answer_tokens: int) -> None:
    """Measure one process."""
    measured(lambda: load_model(Path(path)), prompt_tokens, answer_tokens).print()


def measured(load: Callable[[], tuple[Any, Any]], prompt_tokens: int, answer_tokens: int) -> Measurement:
    """Load with mlx-lm's loader, answer greedily, and return the measurement."""
    started = time.perf_counter()
    model, _ = load()
    load_s = time.perf_counter() - started
    started = time.perf_counter()
    tokens, times = [], []
    for token, _ in generate_step(mx.array(prompt_ids(prompt_tokens)), model, max_tokens=answer_tokens):
        tokens.append(int(token))
        times.append(time.perf_counter())
    return Measurement(
        load_s,
        prompt_tokens / (times[0] - started),
        (answer_tokens - 1) / (times[-1] - times[0]),
        mx.get_peak_memory(),
        process_peak_bytes(),
        tokens,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
