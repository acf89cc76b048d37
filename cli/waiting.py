"""Waiting: what an answer waits for while a part of the model was lost or is moved, as one line for the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from cli.units import duration_text
from mlx_moe.errors import MoeClusterError
from mlx_moe.units import bytes_text

if TYPE_CHECKING:
    from cluster.client import ClusterStatus, NodeProgress, Waiting

OnWaiting = Callable[[str], None]
"""Called with a line while an answer waits, and with "" when it continues."""

LOOK_S = 0.5
"""How often the nodes are asked how much they have loaded."""


class WaitingLine:
    """Receives what an answer waits for, and shows a line; `status` is asked how far the nodes are with loading."""

    def __init__(self, status: Callable[[], ClusterStatus], show: OnWaiting) -> None:
        self._status = status
        self._show = show
        self._since: float | None = None
        self._looked_at = 0.0
        self._loading: Sequence[NodeProgress] = ()

    def __call__(self, waiting: Waiting | None) -> None:
        """Show the line, or remove it (None)."""
        if waiting is None:
            self._since, self._loading = None, ()
            self._show("")
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if not waiting.total and now - self._looked_at >= LOOK_S:
            self._looked_at = now
            with suppress(MoeClusterError):  # the line only says less
                held = (node.holding for node in self._status().nodes)
                self._loading = [holding.progress for holding in held if holding and holding.progress]
        self._show(waiting_text(waiting, now - self._since, self._loading))


def waiting_text(waiting: Waiting, seconds: float, loading: Sequence[NodeProgress]) -> str:
    """Return the line for an answer that has waited for some seconds; `loading` is what nodes load meanwhile."""
    total = sum(node.total_bytes for node in loading)
    if waiting.total:
        doing = f"computing {waiting.done:,} of {waiting.total:,} positions again"
    elif total:
        doing = f"loading {bytes_text(sum(node.done_bytes for node in loading))} of {bytes_text(total)}"
    else:
        doing = "placing its part on other nodes"
    return f"{doing}, {duration_text(seconds)}: {waiting.cause}"
