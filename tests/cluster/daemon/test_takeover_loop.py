"""The loop that waits for orphans lets others run, whatever the worker host says."""

import asyncio
from types import SimpleNamespace
from typing import Any

from cluster.daemon.takeover import Takeover


def test_an_orphan_that_ends_leaves_time_for_all_else() -> None:
    async def run() -> None:
        ending: Any = SimpleNamespace(orphaned=asyncio.Event(), orphan=None)
        ending.orphaned.set()
        nothing: Any = None
        loop = asyncio.create_task(Takeover(nothing, nothing, nothing, ending).run())
        await asyncio.sleep(0.05)  # never comes back if the loop spins
        loop.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))
