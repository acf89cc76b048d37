"""Recording: keeps the newest spans of one worker until they are read."""

from __future__ import annotations

from collections import deque

from cluster.timeline import MOST_SPANS, Span
from cluster.wire import worker_pb2 as pb


class Recording:
    """The spans of a node's worker, by its own monotonic clock."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._spans: deque[Span] = deque(maxlen=MOST_SPANS)

    def add(self, span: Span) -> None:
        """Append a span."""
        self._spans.append(span)

    def take(self) -> pb.StageTimeline:
        """Return the spans since the last call."""
        spans = [span.to_message() for span in self._spans]
        self._spans.clear()
        return pb.StageTimeline(node=self._node, spans=spans)
