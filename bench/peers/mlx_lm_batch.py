"""Measure mlx-lm's batches: python -m bench.peers.mlx_lm_batch CHECKPOINT USERS PROMPT_TOKENS ANSWER_TOKENS SEED.

Prints the tokens per second of all users together, from the first prompt to the last token.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path

from mlx_lm.utils import load_model

from bench.measurement import prompt_ids


def main(path: str, users: int, prompt_tokens: int, answer_tokens: int, seed: int) -> None:
    """Measure one process, after a first answer that is not counted."""
    model, _ = load_model(Path(path))
    generator_of = import_module("mlx_lm.generate").BatchGenerator
    tokens, seconds = 0, 1.0
    for length in (2, answer_tokens):
        prompts = [prompt_ids(prompt_tokens, seed=seed + user) for user in range(users)]
        started = time.perf_counter()
        generator = generator_of(model, stop_tokens=[])
        generator.insert(prompts, [length] * users)
        tokens = 0
        while responses := generator.next_generated():
            tokens += len(responses)
        seconds = time.perf_counter() - started
        generator.close()
    print(tokens / seconds)


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
