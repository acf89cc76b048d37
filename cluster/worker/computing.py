"""Computing: a worker's stage, one frame at a time, and what is heard while a long one is computed.

MLX is used by the thread of the event loop alone. It starts a layer of a long chunk and waits for it in another
thread, so that cancellations, losses, status and unloading are handled meanwhile; they compute nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor

from mlx_moe.layers.steps import Result, Steps, Wait
from mlx_moe.pipeline.frame import Cancel, Frame, Returned
from mlx_moe.pipeline.link import RunningFrame, RunningStage


class Waiter:
    """Waits in a thread of its own for what was started; the event loop goes on meanwhile."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlx-wait")

    async def wait(self, wait: Wait) -> None:
        """Return when a wait is over."""
        await asyncio.get_running_loop().run_in_executor(self._thread, wait)

    async def finish(self, steps: Steps[Result]) -> Result:
        """Run a computation to its end."""
        while True:
            try:
                wait = next(steps)
            except StopIteration as done:
                result: Result = done.value
                return result
            await self.wait(wait)

    def close(self) -> None:
        """Give the thread up; nobody waits for what it still waits for."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Computing:
    """Runs the frames of a stage. Only one task at a time may await it."""

    def __init__(self, stage: RunningStage) -> None:
        self.stage = stage
        self.waiter = Waiter()
        self._running: RunningFrame | None = None

    async def run(self, frame: Frame) -> Returned | None:
        """Return what becomes of a frame in the stage; None where it was cancelled meanwhile."""
        running = RunningFrame(frame, self.stage.steps(frame))
        await self.advance(running, math.inf)
        return running.result

    async def advance(self, running: RunningFrame, slice_s: float) -> bool:
        """Compute a frame for about `slice_s`; return whether it has ended. A cancelled one ends without a result."""
        ends_at = time.monotonic() + slice_s
        self._running = running
        try:
            while (wait := running.step()) is not None:
                await self.waiter.wait(wait)
                if time.monotonic() >= ends_at:
                    return False
            return True
        finally:
            self._running = None

    def cancel(self, cancel: Cancel) -> None:
        """Give up the frame that is being computed if it is cancelled; the caches are as before at once."""
        running = self._running
        if running is not None and running.sequence_id == cancel.sequence_id and running.frame.serial <= cancel.serial:
            running.steps.close()
