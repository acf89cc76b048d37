"""Stuck computing for tests: after SIGUSR1 the next step of a worker's stage never ends, wherever it waits."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass

from mlx_moe.layers.steps import Steps
from mlx_moe.pipeline.frame import Frame
from mlx_moe.pipeline.stage import Stage

IN_THREAD, IN_LOOP = signal.SIGUSR1, signal.SIGUSR2
"""Signals: the thread that waits is stuck, and control is heard; or the event loop is, as by a decode step."""


@dataclass
class _Asked:
    signum: int = 0


_asked = _Asked()


def use() -> None:
    """Let this process get stuck when it is asked to."""
    steps = Stage.steps

    def may_be_stuck(self: Stage, frame: Frame) -> Steps[Frame]:
        if _asked.signum == IN_LOOP:
            threading.Event().wait()
        if _asked.signum == IN_THREAD:
            yield lambda: threading.Event().wait() and None
        return (yield from steps(self, frame))

    Stage.steps = may_be_stuck  # type: ignore[method-assign]
    for signum in (IN_THREAD, IN_LOOP):
        signal.signal(signum, lambda signum, _frame: setattr(_asked, "signum", signum))
