"""Measurement: one run of one runtime over one checkpoint, as a child process prints it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds, rates in tokens/s, bytes. `tokens` shows that the runs computed the same."""

    load_s: float
    prefill_tps: float
    decode_tps: float
    mlx_peak_bytes: int
    process_peak_bytes: int
    tokens: list[int]

    def print(self) -> None:
        """Print it as one line of JSON."""
        print(json.dumps(asdict(self)))


def prompt_ids(length: int, vocab_size: int = 200, seed: int = 1) -> list[int]:
    """Return a prompt of random ids, the same for every runtime."""
    return [int(i) for i in np.random.default_rng(seed).integers(0, vocab_size, length)]


def layer_shares(path: str, stages: int) -> list[int]:
    """Return how many layers of a checkpoint each of so many stages gets: as many as the others, or one less."""
    with Checkpoint.open(Path(path)) as checkpoint:
        layers = families.read_config(checkpoint.config).num_hidden_layers
    return [(layers + i) // stages for i in range(stages)][::-1]
