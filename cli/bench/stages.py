"""Stages: what the stages of a ring did with one answer, in figures. Pure; None is what a timeline does not tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.timeline import FRAMES, SpanKind, StageTimeline, Timeline

TOKENS = (SpanKind.DECODE, SpanKind.DRAFT)
"""Frames of one position each."""

Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage: medians of what a frame took, of its way to the next stage, and the share of time it computed."""

    node: str
    token_s: float | None
    chunk_s: float | None
    hop_s: float | None
    prefill_busy: float | None
    decode_busy: float | None


@dataclass(frozen=True, slots=True)
class RingFigures:
    """All stages in order, and what is the coordinator's or the whole ring's.

    Attributes:
        chunk_positions: of a prefill frame, the median.
        own_s: the coordinator's time a token beside its stage: sampling, drafting, text.
        prefill_bubble: share of the time that the stages idled, on average; so `decode_bubble`.
        mixed: whether other requests were served meanwhile.
    """

    stages: tuple[StageFigures, ...]
    chunk_positions: int | None
    own_s: float | None
    prefill_bubble: float | None
    decode_bubble: float | None
    mixed: bool


def ring_figures(timeline: Timeline) -> RingFigures:
    """Return the figures of a timeline that has one answer."""
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
    """Return the part that all stages remember, where each keeps its newest `most_spans`; the same where none is full.

    Spans are in the order in which they ended: all that began after the oldest one had are there.
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
