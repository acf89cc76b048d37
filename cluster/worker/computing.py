"""Computing: a worker's stage, one frame at a time, and what is heard while a long one is computed.

MLX is used by the thread of the event loop alone. It starts a layer of a long chunk and waits for it in another
thread, so that cancellations, losses, status and unloading are handled meanwhile; they compute nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor

from mlx_moe.pipeline.frame import Cancel, Frame, Returned
from mlx_moe.pipeline.link import RunningFrame, RunningStage
from mlx_moe.pipeline.stage import Wait


class Computing:
    """Runs the frames of a stage. Only one task at a time may await it."""

    def __init__(self, stage: RunningStage) -> None:
        self.stage = stage
        self._running: RunningFrame | None = None
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="mlx-wait")

    async def wait(self, wait: Wait) -> None:
        """Wait for something that was started; the event loop goes on."""
        await asyncio.get_running_loop().run_in_executor(self._waiter, wait)

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
                await self.wait(wait)
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
