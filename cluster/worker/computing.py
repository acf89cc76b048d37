"""Computing: runs a worker's stage, a frame or a batch at a time, and lets control through meanwhile.

Only the event loop's thread builds and starts computation. A layer of a long chunk is waited for in another thread, so
that cancels, losses, status and unloading are handled meanwhile; they compute nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

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
        """Run a computation over so many positions to its end; it is closed if this task is cancelled."""
        with closing(steps):
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
    """Runs the frames of a stage. Only one task at a time may await it; between the steps of a chunk others may run."""

    def __init__(self, stage: RunningStage, stuck_s: float = STUCK_S) -> None:
        self.stage = stage
        self.waiter = Waiter(stuck_s)
        self._running: dict[int, RunningFrame] = {}  # by serial: those that have begun and not ended
        self._steps: dict[str, int] = {}  # serials of the batch that is computed, by sequence

    @property
    def watch(self) -> Watch:
        """What it computes, and for how long."""
        return self.waiter.watch

    async def run(self, frame: Frame, between: Callable[[], Awaitable[None]] | None = None) -> Returned | None:
        """Return a frame's result; None if it was cancelled. `between` is awaited between its steps.

        Raises as `advance`.
        """
        running = RunningFrame(frame, self.stage.steps(frame))
        while not await self.advance(running, math.inf if between is None else 0.0):
            if between is not None:
                await between()
        return running.result

    async def together(self, frames: Sequence[Frame]) -> list[Returned | None]:
        """Return the results of steps of different sequences, a batch; None for those that were cancelled meanwhile.

        Raises as `advance`.
        """
        if len(frames) == 1:
            return [await self.run(frames[0])]
        self._steps = {frame.sequence_id: frame.serial for frame in frames}
        results = await self.waiter.finish(self.stage.together(frames), "a step of a batch", len(frames))
        return [
            result if frame.sequence_id in self._steps else None for frame, result in zip(frames, results, strict=True)
        ]

    async def advance(self, running: RunningFrame, slice_s: float) -> bool:
        """Compute a frame for about `slice_s`; return whether it has ended. A cancelled frame ends without a result.

        Raises:
            NodeLostError: a node that owns experts of the stage was lost: no frame can be computed any more.
        """
        ends_at = time.monotonic() + slice_s
        self._running[running.frame.serial] = running
        what, rows = f"a step of a {running.frame.kind.value} frame", running.frame.hidden_states.shape[0]
        while True:
            with self.watch.step(what, rows):
                if (wait := running.step()) is None:
                    break
                await self.waiter.wait(wait)
            if time.monotonic() >= ends_at:
                return False
        self._running.pop(running.frame.serial, None)
        if isinstance(running.result, Refused) and isinstance(running.result.error, NodeLostError):
            raise running.result.error
        return True

    def close(self) -> None:
        """Stop computing; caches are rewound at once."""
        for running in self._running.values():
            running.steps.close()
        self._running.clear()
        self.waiter.close()

    def message(self, frame: Frame, epoch: int) -> Message:
        """Return a result as a message; waits here until it is computed."""
        with self.watch.step(f"the end of a {frame.kind.value} frame", frame.hidden_states.shape[0]):
            return to_message(frame, epoch)

    def cancel(self, cancel: Cancel) -> None:
        """Stop computing cancelled frames: caches are rewound at once; the result of a step in a batch is dropped."""
        for serial, running in list(self._running.items()):
            if running.sequence_id == cancel.sequence_id and serial <= cancel.serial:
                running.steps.close()
                del self._running[serial]
        if self._steps.get(cancel.sequence_id, math.inf) <= cancel.serial:
            del self._steps[cancel.sequence_id]
