"""Takeover: goes on with a model whose owner is lost, without a person.

Every node with an orphan looks who is left. The first of them in the order of the placement asks for the next epoch,
and deploys the model again on what the orphans hold; the others wait for it, and try later, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import time

from cluster.daemon.greeter import Greeter
from cluster.daemon.serving import Serving
from cluster.daemon.state import NodeState
from cluster.daemon.voting import lasts
from cluster.daemon.worker_host import Orphan, WorkerHost
from cluster.errors import NodeLostError
from cluster.membership.greeting import Greeting
from cluster.placement import Placement
from mlx_moe.errors import MoeClusterError

log = logging.getLogger(__name__)

ASK_S = 1.0
"""How long a node may take to say that it is there."""

RETRY_S = 0.3

TURN_S = 4.0
"""How long each node waits for the one before it to take over."""


class Takeover:
    """Waits for orphans of this node's worker host."""

    def __init__(self, state: NodeState, greeter: Greeter, serving: Serving, host: WorkerHost) -> None:
        self._state = state
        self._greeter = greeter
        self._serving = serving
        self._host = host

    async def run(self) -> None:
        """Take over what this node has an orphan of, until cancelled."""
        while True:
            await self._host.orphaned.wait()
            began_s = time.monotonic()
            while (orphan := self._host.orphan) is not None:
                try:
                    await self._look(orphan, time.monotonic() - began_s)
                except MoeClusterError as error:
                    log.warning("event=not_taken_over epoch=%d error=%s", orphan.load.epoch, error)
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(RETRY_S)  # `orphaned` stays set while an orphan ends: without this, nothing else runs

    async def _look(self, orphan: Orphan, waited_s: float) -> None:
        """Take over if the owner is lost and it is this node's turn. Raises MoeClusterError."""
        own, placement = self._state.own.node_id, Placement.parse(orphan.load.placement)
        others = {*placement.node_ids, orphan.owner} - {own}
        answers = dict(zip(others, await asyncio.gather(*map(self._asked, others)), strict=True))
        owner = answers.get(orphan.owner)
        if owner is not None and (lasts(owner.serving) or owner.is_placing):
            return  # only the call to this node broke
        left = [i for i in placement.node_ids if i == own or _holds(answers[i], orphan.load.epoch)]
        if waited_s >= left.index(own) * TURN_S:
            lost = frozenset(node_id for node_id, answer in answers.items() if answer is None)
            name = self._state.name(orphan.owner)
            cause = NodeLostError(f"node {name}, which coordinated, was lost", node_id=orphan.owner)
            await self._serving.take_over(orphan.load, lost, cause)
            log.warning("event=taken_over model=%s seconds=%.2f", placement.model, waited_s)

    async def _asked(self, node_id: str) -> Greeting | None:
        return await self._greeter.asked(node_id, ASK_S)


def _holds(answer: Greeting | None, epoch: int) -> bool:
    return answer is not None and answer.holding.epoch == epoch
