"""Holding: another part of the same checkpoint is what a fresh load gives, and only what was missing is read."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import mlx.core as mx
import pytest

from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.held import Held
from mlx_moe.layers.experts import Experts, RoutedExperts
from mlx_moe.pipeline.holding import ExpertHolding, Holding, load_experts, load_holding
from mlx_moe.pipeline.shard_spec import ShardSpec


def experts(*owned: int) -> dict[int, tuple[int, ...]]:
    return dict.fromkeys(range(1, 6), owned)


WHOLE = ShardSpec(range(6))
MIDDLE = ShardSpec(range(2, 4))
EVEN = ShardSpec(range(2, 4), experts(0, 2, 4, 6, 8, 10, 12, 14))
LOW = ShardSpec(range(1, 5), experts(*range(8)))
PEER = ShardSpec(range(1, 5), experts(3, 5, 9))
"""Its experts alone; the others are parts of a stage."""


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with Checkpoint.open(library.locate(library.DEMO)) as opened:
        yield opened


class Elsewhere:
    """Owners of experts that nobody asks."""

    def bind(self, layer: int, own: Experts | None) -> RoutedExperts:  # noqa: ARG002
        assert own is not None
        return own


class Loading:
    """Loads parts of the demo model, and notes what was read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config = families.config_of(checkpoint)
        self.read_bytes = self.total_bytes = 0

    def load(self, spec: ShardSpec, held: Held | None = None, *, coordinates: bool = False) -> Holding | ExpertHolding:
        self.read_bytes = self.total_bytes = 0
        if spec is PEER:
            return load_experts(self._checkpoint, self._config, spec, progress=self._note, held=held)
        return load_holding(
            self._checkpoint,
            self._config,
            spec,
            coordinates=coordinates,
            peers=Elsewhere(),
            with_mtp=coordinates,
            progress=self._note,
            held=held,
        )

    def _note(self, done: int, total: int) -> None:
        self.read_bytes, self.total_bytes = done, total


def rows(held: Held) -> dict[object, int]:
    """Return the bytes in the files of each piece that is held."""
    return {piece: piece.nbytes for stored in held for piece in stored.pieces}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MIDDLE, WHOLE),
        (WHOLE, MIDDLE),
        (MIDDLE, ShardSpec(range(3, 6))),
        (MIDDLE, EVEN),
        (EVEN, MIDDLE),
        (EVEN, LOW),
        (LOW, PEER),
        (PEER, EVEN),
        (MIDDLE, MIDDLE),
    ],
)
def test_a_part_that_follows_another_is_as_if_loaded_afresh_and_reads_what_was_missing(
    checkpoint: Checkpoint, before: ShardSpec, after: ShardSpec
) -> None:
    loading = Loading(checkpoint)
    fresh = loading.load(after).arrays
    held = loading.load(before).arrays
    kept = {stored: arrays for stored, arrays in held.items() if stored in fresh}
    missing_bytes = sum(nbytes for piece, nbytes in rows(fresh).items() if piece not in rows(held))
    holding = loading.load(after, held)
    assert (loading.read_bytes, loading.total_bytes) == (missing_bytes, missing_bytes)
    assert holding.arrays.keys() == fresh.keys()
    assert all(
        mx.array_equal(got, wanted)
        for stored in fresh
        for got, wanted in zip(holding.arrays[stored], fresh[stored], strict=True)
    )
    assert all(holding.arrays[stored] is arrays for stored, arrays in kept.items())


def test_the_coordinators_embedding_lm_head_and_drafter_come_and_go(checkpoint: Checkpoint) -> None:
    loading = Loading(checkpoint)
    whole = loading.load(MIDDLE, coordinates=True)
    whole_bytes = loading.total_bytes
    held = whole.arrays
    del whole
    bare = loading.load(MIDDLE, held)
    assert (bare.head, bare.mtp, loading.total_bytes) == (None, None, 0)
    again = loading.load(MIDDLE, bare.arrays, coordinates=True)
    assert again.head is not None
    assert again.mtp is not None
    assert 0 < loading.total_bytes < whole_bytes


def test_what_is_given_up_is_freed_before_anything_is_read(checkpoint: Checkpoint) -> None:
    loading = Loading(checkpoint)
    gc.collect()
    empty = mx.get_active_memory()
    held = loading.load(ShardSpec(range(3))).arrays
    before_bytes = mx.get_active_memory() - empty
    mx.reset_peak_memory()
    holding = loading.load(ShardSpec(range(3, 6)), held)
    stack_bytes = max(array.nbytes for arrays in holding.arrays.values() for array in arrays)
    peak_bytes = mx.get_peak_memory() - empty
    assert peak_bytes <= max(before_bytes, holding.weights_bytes) + 6 * stack_bytes  # so many are read at once
    assert peak_bytes < before_bytes + holding.weights_bytes
