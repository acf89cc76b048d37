"""Measure this project on one machine: python -m bench.own CHECKPOINT PROMPT_TOKENS ANSWER_TOKENS."""

from __future__ import annotations

import sys

import mlx_moe
from bench.measurement import Measurement, prompt_ids
from mlx_moe.memory import process_peak_bytes


def main(path: str, prompt_tokens: int, answer_tokens: int) -> None:
    """Load, answer greedily, print one Measurement."""
    model = mlx_moe.load(path)
    generation = model.generate(mlx_moe.Request.exactly(prompt_ids(prompt_tokens), answer_tokens))
    tokens = [token.id for token in generation]
    stats = generation.stats
    Measurement(
        model.load_s,
        prompt_tokens / stats.ttft_s,
        stats.decode_tps,
        model.placement[0].peak_memory_bytes,
        process_peak_bytes(),
        tokens,
    ).print()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
