"""Timeline: what each stage of a ring did with each frame, and when. Pure: knows nothing about workers and links.

Each stage stamps its spans with its own clock. `Timeline.read` aligns the clocks so that the fastest hop from each
stage to the next takes the same time: the time of a whole round is exact, its division among the hops is assumed.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cluster.errors import ClusterError
from cluster.wire import worker_pb2 as pb

MOST_SPANS = 8192
"""Number of newest spans that a worker keeps (2 MB). A coordinator adds about four per token."""


class SpanKind(StrEnum):
    """The kind of work: a frame in a stage, its return to the coordinator, or the coordinator's turn at an answer."""

    PREFILL = "prefill"
    DECODE = "decode"
    DRAFT = "draft"
    RETURN = "return"
    TURN = "turn"


FRAMES = (SpanKind.PREFILL, SpanKind.DECODE, SpanKind.DRAFT)


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work: when its frame arrived, and when it began and ended, in seconds.

    `serial` numbers the coordinator's frames; a turn has none, and contains the first stage's frames that it sends.
    """

    kind: SpanKind
    sequence_id: str
    serial: int
    position: int
    rows: int
    arrived_s: float
    began_s: float
    ended_s: float

    @property
    def seconds(self) -> float:
        """Duration of the work."""
        return self.ended_s - self.began_s

    def to_message(self) -> pb.Span:
        """Return the span as a message."""
        return pb.Span(
            kind=self.kind,
            sequence_id=bytes.fromhex(self.sequence_id),
            serial=self.serial,
            position=self.position,
            rows=self.rows,
            arrived_s=self.arrived_s,
            began_s=self.began_s,
            ended_s=self.ended_s,
        )

    @classmethod
    def read(cls, message: pb.Span) -> Span:
        """Read a span from its message. Raises ClusterError for a kind that this version does not know."""
        if message.kind not in list(SpanKind):
            raise ClusterError(f"a stage tells of {message.kind[:80]!r}, which this version does not know")
        return cls(
            SpanKind(message.kind),
            message.sequence_id.hex(),
            message.serial,
            message.position,
            message.rows,
            message.arrived_s,
            message.began_s,
            message.ended_s,
        )

    def moved(self, seconds: float) -> Span:
        """Return the span on a clock that is ahead by `seconds`."""
        return replace(
            self,
            arrived_s=self.arrived_s + seconds,
            began_s=self.began_s + seconds,
            ended_s=self.ended_s + seconds,
        )


@dataclass(frozen=True, slots=True)
class StageTimeline:
    """One stage's spans, in order; `node` is the name of the node that runs it."""

    node: str
    spans: tuple[Span, ...]

    def of(self, *kinds: SpanKind) -> list[Span]:
        """Return the spans of the given kinds."""
        return [span for span in self.spans if span.kind in kinds]

    def busy_s(self, start_s: float, end_s: float) -> float:
        """Return the seconds between two times in which it computed; a turn contains the frames that it sends."""
        kinds = (SpanKind.TURN,) if self.of(SpanKind.TURN) else FRAMES
        return self.spent_s(start_s, end_s, *kinds)

    def spent_s(self, start_s: float, end_s: float, *kinds: SpanKind) -> float:
        """Return the seconds between two times that spans of the given kinds took."""
        return sum(max(0.0, min(s.ended_s, end_s) - max(s.began_s, start_s)) for s in self.of(*kinds))


@dataclass(frozen=True, slots=True)
class Timeline:
    """All stages on one clock, in the order of the ring, the coordinator's first."""

    stages: tuple[StageTimeline, ...]

    @classmethod
    def read(cls, messages: Iterable[pb.StageTimeline]) -> Timeline:
        """Read the messages of a coordinator, in which each stage has its own clock."""
        stages = [StageTimeline(m.node, tuple(Span.read(span) for span in m.spans)) for m in messages]
        return cls(tuple(_on_one_clock(stages)))

    def hops_s(self, kind: SpanKind = SpanKind.DECODE) -> list[list[float]]:
        """Return for each stage the seconds from the end of each frame to its arrival at the next stage.

        The next stage of the last one is the coordinator. If the next stage is busy this time is included, because it
        reads what has arrived only when it is done.
        """
        return [_hops_s(a, b, kind) for a, b in _ring(self.stages)]

    def window(self, *kinds: SpanKind) -> tuple[float, float] | None:
        """Return the start of the first frame of the given kinds and the end or return of the last; None if none."""
        spans = [span for stage in self.stages for span in stage.of(*kinds)]
        if not spans:
            return None
        serials = {span.serial for span in spans}
        spans += [span for span in self.stages[0].of(SpanKind.RETURN) if span.serial in serials]
        return min(span.began_s for span in spans), max(span.ended_s for span in spans)

    def within(self, start_s: float, end_s: float) -> Timeline:
        """Return the spans that began between two times."""
        return Timeline(
            tuple(replace(s, spans=tuple(p for p in s.spans if start_s <= p.began_s < end_s)) for s in self.stages)
        )

    def to_chrome(self) -> dict[str, Any]:
        """Return a trace for chrome://tracing or ui.perfetto.dev: one process per stage, arrows for hops.

        Source: the Trace Event Format of the Chromium project.
        """
        start_s = min((span.began_s for stage in self.stages for span in stage.spans), default=0.0)
        events: list[dict[str, Any]] = []
        for number, stage in enumerate(self.stages):
            name = {"name": f"stage {number}: {stage.node}"}
            events.append({"name": "process_name", "ph": "M", "pid": number, "args": name})
            events += [_event(span, number, start_s) for span in stage.spans if span.kind is not SpanKind.RETURN]
        for number, (here, there) in enumerate(_ring(self.stages)):
            for left, came in _crossings(here, there, FRAMES):
                arrow = {"name": "hop", "cat": left.kind, "id": f"{number}.{left.serial}", "tid": 0}
                leaves_s = max(left.began_s, left.ended_s - 1e-6)  # within its frame, or it would begin nowhere
                events.append(arrow | {"ph": "s", "pid": number, "ts": (leaves_s - start_s) * 1e6})
                binding = {} if came.kind is SpanKind.RETURN else {"bp": "e"}  # to the frame; else to the next turn
                arrived = {"pid": (number + 1) % len(self.stages), "ts": (came.began_s - start_s) * 1e6}
                events.append(arrow | {"ph": "f"} | binding | arrived)
        return {"traceEvents": events, "displayTimeUnit": "ms"}


def _event(span: Span, stage: int, start_s: float) -> dict[str, Any]:
    end = span.position + span.rows
    where = {"prefill": f" {span.position}-{end - 1}", "turn": ""}.get(span.kind, f" {span.position}")
    return {
        "name": span.kind + where,
        "cat": span.kind,
        "ph": "X",
        "pid": stage,
        "tid": 0,
        "ts": (span.began_s - start_s) * 1e6,
        "dur": span.seconds * 1e6,
        "args": {
            "request": span.sequence_id,
            "serial": span.serial,
            "position": span.position,
            "rows": span.rows,
            "waited_us": (span.began_s - span.arrived_s) * 1e6,
        },
    }


def _ring(stages: Sequence[StageTimeline]) -> list[tuple[StageTimeline, StageTimeline]]:
    """Return each stage with the next one; empty for a single stage."""
    return list(itertools.pairwise((*stages, stages[0]))) if len(stages) > 1 else []


def _crossings(here: StageTimeline, there: StageTimeline, kinds: Sequence[SpanKind]) -> list[tuple[Span, Span]]:
    """Return pairs of a frame's spans in a stage and in the next one; its return if the next one is the coordinator."""
    returns = there.of(SpanKind.RETURN)
    came = {span.serial: span for span in (returns or there.of(*kinds))}
    return [(span, came[span.serial]) for span in here.of(*kinds) if span.serial in came]


def _hops_s(here: StageTimeline, there: StageTimeline, kind: SpanKind) -> list[float]:
    return [came.arrived_s - left.ended_s for left, came in _crossings(here, there, (kind,))]


def _on_one_clock(stages: Sequence[StageTimeline]) -> list[StageTimeline]:
    """Move the stages' clocks so that the fastest hops of the ring are equal; unchanged if a hop has no frame."""
    fastest = [min(_hops_s(a, b, SpanKind.DECODE), default=None) for a, b in _ring(stages)]
    known = [seconds for seconds in fastest if seconds is not None]
    if not known or len(known) < len(stages):
        return list(stages)
    mean = statistics.mean(known)
    moves = itertools.accumulate((mean - seconds for seconds in known[:-1]), initial=0.0)
    return [
        replace(stage, spans=tuple(span.moved(by) for span in stage.spans))
        for stage, by in zip(stages, moves, strict=True)
    ]
