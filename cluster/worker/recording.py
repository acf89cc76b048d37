"""Recording: the newest spans of one worker, until somebody asks for them."""

from __future__ import annotations

from collections import deque

from cluster.timeline import MOST_SPANS, Span
from cluster.wire import worker_pb2 as pb


class Recording:
    """What the worker of a node did, by its own monotonic clock."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._spans: deque[Span] = deque(maxlen=MOST_SPANS)

    def add(self, span: Span) -> None:
        """Add a span behind the others."""
        self._spans.append(span)

    def take(self) -> bytes:
        """Return what was added since the last time, as Timelines of one stage; those of several may be joined."""
        spans = [span.to_message() for span in self._spans]
        self._spans.clear()
        return pb.Timelines(stages=[pb.StageTimeline(node=self._node, spans=spans)]).SerializeToString()
