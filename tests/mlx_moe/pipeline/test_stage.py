"""Stage: what comes back of a chunk, and of frames that are sent again."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from mlx_moe.pipeline.frame import Frame, FrameKind, Release
from mlx_moe.pipeline.link import LocalLink
from tests import oracles
from tests.mlx_moe.demo_pipeline import engine, shapes_matter  # noqa: F401
from tests.mlx_moe.slow_link import SlowLink


@pytest.mark.usefixtures("shapes_matter")
@pytest.mark.parametrize("length", [2, 31, 32, 33])
def test_a_chunk_ends_with_the_same_bits_whether_one_output_is_asked_for_or_all(length: int) -> None:
    (stage,) = engine(1).link.stages
    embedded = engine(1).head.embed(mx.array(oracles.random_ids(length, 200)))
    one, every = (stage.run(Frame("r", 0, embedded, FrameKind.PREFILL, outputs=n)).hidden_states for n in (1, None))
    kept_after_all = stage.run(Frame("r", length, embedded[:1], FrameKind.DECODE)).hidden_states
    stage.run(Frame("r", 0, embedded, FrameKind.PREFILL, outputs=1))
    kept_after_one = stage.run(Frame("r", length, embedded[:1], FrameKind.DECODE)).hidden_states
    stage.release("r")
    assert every.shape[0] == length
    assert mx.array_equal(every[-1:], one)
    assert mx.array_equal(kept_after_all, kept_after_one)


def test_a_frame_sent_again_voids_those_at_its_position_and_later() -> None:
    stages = engine(3).link.stages
    rows = mx.random.normal((3, engine(3).config.hidden_size))
    for link in (SlowLink(stages), LocalLink(stages, math.inf)):
        for serial, position in enumerate((0, 1, 2, 1)):
            link.send(Frame("r", position, rows[position : position + 1], FrameKind.DECODE, serial))
        if isinstance(link, SlowLink):
            link.settle()
        assert [frame.serial for frame in link.receive("r")] == [0, 3]
        assert link.receive("r") == []
        link.send(Release("r"))
        if isinstance(link, SlowLink):
            link.settle()
