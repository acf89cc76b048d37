"""Recording: keeps the newest spans of one worker until they are read, and the sums of all."""

from __future__ import annotations

from collections import deque

from cluster.timeline import FRAMES, MOST_SPANS, Span, SpanKind
from cluster.wire import worker_pb2 as pb


class Recording:
    """The spans of a node's worker, by its own monotonic clock.

    Attributes:
        turns_s: what all turns of the coordinator took.
        frames_s: what all frames took, a batch once.
        held_s: the same of each, from its arrival on.
        away_s: what all returned frames took from their leaving the coordinator to their return.
    """

    def __init__(self, node: str) -> None:
        self.turns_s = self.frames_s = self.held_s = self.away_s = 0.0
        self._node = node
        self._spans: deque[Span] = deque(maxlen=MOST_SPANS)

    def add(self, *spans: Span) -> None:
        """Append the spans of something that ran at the same time."""
        self._spans.extend(spans)
        for number, span in enumerate(spans):
            if span.kind is SpanKind.TURN:
                self.turns_s += span.seconds
            elif span.kind in FRAMES:
                self.frames_s += span.seconds if not number else 0.0
                self.held_s += span.ended_s - span.arrived_s

    def take(self) -> pb.StageTimeline:
        """Return the spans since the last call."""
        spans = [span.to_message() for span in self._spans]
        self._spans.clear()
        return pb.StageTimeline(node=self._node, spans=spans)
