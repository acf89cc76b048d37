"""Stages: figures of a ring's stages for one answer, from a timeline. None: unknown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.timeline import FRAMES, SpanKind, StageTimeline, Timeline

TOKENS = (SpanKind.DECODE, SpanKind.DRAFT)
"""Kinds of frames with one position."""

Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage: median times of a frame and of its hop to the next stage, and its share of computing time."""

    node: str
    token_s: float | None
    chunk_s: float | None
    hop_s: float | None
    prefill_busy: float | None
    decode_busy: float | None


@dataclass(frozen=True, slots=True)
class RingFigures:
    """All stages in order, and figures of the coordinator and the whole ring.

    Attributes:
        chunk_positions: median positions of a prefill frame.
        own_s: the coordinator's time per token besides its stage: sampling, drafting, text.
        prefill_bubble: average share of idle time of the stages; `decode_bubble` likewise.
        mixed: whether other requests were served at the same time.
    """

    stages: tuple[StageFigures, ...]
    chunk_positions: int | None
    own_s: float | None
    prefill_bubble: float | None
    decode_bubble: float | None
    mixed: bool


def ring_figures(timeline: Timeline) -> RingFigures:
    """Return the figures of a timeline of one answer."""
    prefill, decode = timeline.window(SpanKind.PREFILL), timeline.window(*TOKENS)
    hops = timeline.hops_s() or [[] for _ in timeline.stages]
    stages = tuple(
        StageFigures(
            stage.node,
            _median([span.seconds for span in stage.of(*TOKENS)]),
            _median([span.seconds for span in stage.of(SpanKind.PREFILL)]),
            _median(stage_hops),
            _busy(stage, prefill),
            _busy(stage, decode),
        )
        for stage, stage_hops in zip(timeline.stages, hops, strict=True)
    )
    chunks = _median([span.rows for stage in timeline.stages for span in stage.of(SpanKind.PREFILL)])
    return RingFigures(
        stages,
        None if chunks is None else int(chunks),
        None if decode is None else _own_s(timeline.stages[0], decode),
        _bubble([stage.prefill_busy for stage in stages]),
        _bubble([stage.decode_busy for stage in stages]),
        len({span.sequence_id for stage in timeline.stages for span in stage.spans}) > 1,
    )


def remembered(timeline: Timeline, most_spans: int) -> Timeline:
    """Return the part of the timeline that all stages still have, if each keeps its newest `most_spans` spans.

    Spans are ordered by their end, so all spans that began after the end of the oldest one are present.
    """
    full = [stage for stage in timeline.stages if len(stage.spans) == most_spans]
    return timeline.within(max(stage.spans[0].ended_s for stage in full), math.inf) if full else timeline


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _busy(stage: StageTimeline, window: Window | None) -> float | None:
    return None if window is None else stage.busy_s(*window) / (window[1] - window[0])


def _bubble(busy: Sequence[float | None]) -> float | None:
    shares = [share for share in busy if share is not None]
    return 1 - statistics.mean(shares) if shares else None


def _own_s(coordinator: StageTimeline, window: Window) -> float:
    positions = [span.position for span in coordinator.of(*TOKENS)]
    spent_s = coordinator.spent_s(*window, SpanKind.TURN) - coordinator.spent_s(*window, *FRAMES)
    return spent_s / (max(positions) - min(positions) + 1)
