"""LocalLink: a long chunk is run in slices, so that other answers go on; no bit depends on that."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.engine import Engine
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import Token
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.decoding.session import Session
from mlx_moe.errors import FrameError
from mlx_moe.pipeline.frame import Frame, FrameKind, Refused, Release
from mlx_moe.pipeline.link import LocalLink
from tests import oracles
from tests.mlx_moe.demo_pipeline import answer, ask_for, engine, nothing_is_left, shapes_matter  # noqa: F401

LONG = oracles.random_ids(200, 200, seed=3)
SHORT = oracles.random_ids(9, 200, seed=4)
N_LAYERS = 6

pytestmark = pytest.mark.usefixtures("shapes_matter")


def answers(slice_s: float) -> Engine:
    one = engine(1)
    chunks = ChunkRule.alone(1, 1 << 30)
    return Engine(Coordinator(one.head, one.config.vocab_size, chunks=chunks), LocalLink(one.link.stages, slice_s))


def written(generation: Generation) -> list[Token]:
    return list(generation)


def test_others_write_tokens_between_the_layers_of_a_chunk_and_nobodys_bits_change() -> None:
    wanted = [written(answer(answers(math.inf), ask_for(ids, 8))) for ids in (LONG, SHORT)]
    both = answers(slice_s=0.0)
    short = answer(both, ask_for(SHORT, 8))
    tokens: list[list[Token]] = [[], [next(short)]]
    long = answer(both, ask_for(LONG, 8))
    for _ in range(N_LAYERS - 1):  # its first turn sends the chunk and asks for it
        assert long.advance() is None
        tokens[1].append(next(short))
    tokens[0] += written(long)
    tokens[1] += written(short)
    assert tokens == wanted
    assert (long.stats.chunk_length, short.stats.chunk_length) == (256, 32)


def test_progress_is_told_at_each_pause_so_that_a_long_chunk_can_be_interrupted() -> None:
    class _PressedError(Exception):
        pass

    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise _PressedError

    alone = answers(slice_s=0.0)
    session = Session(Sequence(), alone.release)
    generation = answer(alone, ask_for(LONG, 4), session, progress=progress)
    with pytest.raises(_PressedError):
        next(generation)
    assert calls == [(0, 200)] * 3
    again = answer(alone, ask_for(LONG, 4), session)
    assert written(again) == written(answer(answers(math.inf), ask_for(LONG, 4)))
    session.close()


def test_a_frame_that_is_refused_is_not_in_the_way_of_the_next() -> None:
    one = engine(1)
    link = LocalLink(one.link.stages, math.inf)
    embedded = one.head.embed(mx.array(SHORT))
    link.send(Frame("r", 5, embedded, FrameKind.PREFILL, serial=1))
    (refused,) = link.receive("r")
    assert isinstance(refused, Refused)
    with pytest.raises(FrameError, match="starts at position 5"):
        raise refused.error
    link.send(Frame("r", 0, embedded, FrameKind.PREFILL, serial=2))
    (frame,) = link.receive("r")
    assert isinstance(frame, Frame)
    assert frame.hidden_states.shape[0] == len(SHORT)
    link.send(Release("r"))
