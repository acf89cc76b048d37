"""Computing: runs a worker's stage one frame at a time, and lets control through meanwhile.

Only the event loop's thread builds and starts computation. A layer of a long chunk is waited for in another thread, so
that cancels, losses, status and unloading are handled meanwhile; they compute nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor

from cluster.errors import NodeLostError
from cluster.worker.arrays import to_message
from cluster.worker.messages import Message
from cluster.worker.watch import STUCK_S, Watch
from mlx_moe.layers.steps import Result, Steps, Wait
from mlx_moe.pipeline.frame import Cancel, Frame, Refused, Returned
from mlx_moe.pipeline.link import RunningFrame, RunningStage


class Waiter:
    """Waits in another thread for started computation, and watches how long it takes."""

    def __init__(self, stuck_s: float = STUCK_S) -> None:
        self.watch = Watch(stuck_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlx-wait")

    async def wait(self, wait: Wait) -> None:
        """Return when a wait is over."""
        await asyncio.get_running_loop().run_in_executor(self._thread, wait)

    async def finish(self, steps: Steps[Result], what: str, rows: int) -> Result:
        """Run a computation over so many positions to its end."""
        while True:
            with self.watch.step(what, rows):
                try:
                    wait = next(steps)
                except StopIteration as done:
                    result: Result = done.value
                    return result
                await self.wait(wait)

    def close(self) -> None:
        """Stop the thread without waiting for it."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Computing:
    """Runs the frames of a stage. Only one task at a time may await it."""

    def __init__(self, stage: RunningStage, stuck_s: float = STUCK_S) -> None:
        self.stage = stage
        self.waiter = Waiter(stuck_s)
        self._running: RunningFrame | None = None

    @property
    def watch(self) -> Watch:
        """What it computes, and for how long."""
        return self.waiter.watch

    async def run(self, frame: Frame) -> Returned | None:
        """Return a frame's result; None if it was cancelled. Raises as `advance`."""
        running = RunningFrame(frame, self.stage.steps(frame))
        await self.advance(running, math.inf)
        return running.result

    async def advance(self, running: RunningFrame, slice_s: float) -> bool:
        """Compute a frame for about `slice_s`; return whether it has ended. A cancelled frame ends without a result.

        Raises:
            NodeLostError: a node that owns experts of the stage was lost: no frame can be computed any more.
        """
        ends_at = time.monotonic() + slice_s
        self._running = running
        what, rows = f"a step of a {running.frame.kind.value} frame", running.frame.hidden_states.shape[0]
        try:
            while True:
                with self.watch.step(what, rows):
                    if (wait := running.step()) is None:
                        break
                    await self.waiter.wait(wait)
                if time.monotonic() >= ends_at:
                    return False
            if isinstance(running.result, Refused) and isinstance(running.result.error, NodeLostError):
                raise running.result.error
            return True
        finally:
            self._running = None

    def message(self, frame: Frame, epoch: int) -> Message:
        """Return a result as a message; waits here until it is computed."""
        with self.watch.step(f"the end of a {frame.kind.value} frame", frame.hidden_states.shape[0]):
            return to_message(frame, epoch)

    def cancel(self, cancel: Cancel) -> None:
        """Stop computing a cancelled frame; its caches are rewound at once."""
        running = self._running
        if running is not None and running.sequence_id == cancel.sequence_id and running.frame.serial <= cancel.serial:
            running.steps.close()
