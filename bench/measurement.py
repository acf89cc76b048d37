"""Measurement: the result of one run of one runtime on one checkpoint, as a child process prints it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Measurement:
    """`..._s` are seconds, `..._tps` tokens/s. `tokens` are compared to check that all runs computed the same."""

    load_s: float
    prefill_tps: float
    decode_tps: float
    mlx_peak_bytes: int
    process_peak_bytes: int
    tokens: list[int]

    def print(self) -> None:
        """Print the measurement as one line of JSON."""
        print(json.dumps(asdict(self)))


def prompt_ids(length: int, vocab_size: int = 200, seed: int = 1) -> list[int]:
    """Return a prompt of random ids, equal for every runtime."""
    return [int(i) for i in np.random.default_rng(seed).integers(0, vocab_size, length)]


def layer_shares(path: str, stages: int) -> list[int]:
    """Return the number of a checkpoint's layers for each of `stages` stages, which differ by at most one."""
    with Checkpoint.open(Path(path)) as checkpoint:
        layers = families.config_of(checkpoint).num_hidden_layers
    return [(layers + i) // stages for i in range(stages)][::-1]
