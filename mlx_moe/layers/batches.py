"""Batches: steps of several sequences that are computed together. Imports no MLX."""

TOGETHER = 16
"""Most rows that are computed as if each were alone: the size of a batch."""


def largest_batch(n_sequences: int, n_stages: int) -> int:
    """Return how many of the sequences that decode leave together, so that every stage has a batch.

    Sequences that are left over have batches of their own: a larger one would delay all on its way around the ring.
    """
    return min(TOGETHER, max(1, n_sequences // n_stages))
