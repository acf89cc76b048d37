"""Voting: grants epochs to other nodes, and asks them for this node's own. What counts is decided in `ballot`.

A grant needs a cause: nobody serves a model any more, as far as this node can see, or the owner itself asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc

from cluster.daemon import ballot_file
from cluster.daemon.greeter import Greeter
from cluster.daemon.state import NodeState
from cluster.errors import OutvotedError
from cluster.membership import ballot_message
from cluster.membership.ballot import Ballot, Term, undecided
from cluster.membership.membership import State
from cluster.rpc_errors import details_of
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from mlx_moe.errors import MoeClusterError

log = logging.getLogger(__name__)

GRANT_S = 4.0
"""Timeout for a node to grant an epoch: it may have to ask the former owner first."""

ASK_S = 1.5
"""How long the owner of an epoch may take to say that it still serves."""

CANDIDACIES = 3
"""How often to ask for an epoch; others may have been granted the first ones."""

LOOK_S = 0.5

SETTLED_S = 6.0
"""How long the same nodes must be present before these become the electorate: longer than a dead one seems to be."""


class Voting:
    """One node's vote. Its ballot is on disk before anybody hears of it."""

    def __init__(
        self, state: NodeState, greeter: Greeter, stub: Callable[[str], node_pb2_grpc.NodeStub], path: Path
    ) -> None:
        self._state = state
        self._greeter = greeter
        self._stub = stub
        self._path = path
        self._left: dict[str, int] = {}
        self._one_candidacy_at_a_time = asyncio.Lock()
        state.ballot = ballot_file.read(path)

    async def vote(self, term: Term) -> tuple[str, Ballot]:
        """Grant a term to its owner, who asks for it. Return why not, "" if granted, and the ballot before."""
        refusal = await self._objection(term.owner)
        before = self._state.ballot
        if not refusal and before.refuses(term):
            newest = before.newest
            refusal = f"epoch {newest.epoch} was granted to node {self._state.name(newest.owner)}"
        if not refusal:
            self._keep(before.grant(term))
        log.info("event=vote epoch=%d owner=%s refusal=%s", term.epoch, self._state.name(term.owner), refusal)
        return refusal, before

    async def win(self, node_ids: Collection[str], lost: frozenset[str] = frozenset(), *, by_person: bool) -> int:
        """Return a new epoch that is this node's, for a placement on nodes which all grant it.

        A person's load needs no former electorate, only more than half of the nodes that are here.

        Raises:
            OutvotedError: another node serves a model, a node of the placement does not grant the epoch, or too few do.
        """
        async with self._one_candidacy_at_a_time:
            began_s, own = time.monotonic(), self._state.own.node_id
            floor, objection = 0, await self._objection(own)
            for _ in range(CANDIDACIES):
                if objection:
                    break
                here = {own, *self._state.present} - lost
                epoch = max(floor, self._state.ballot.newest.epoch) + 1
                term = Term(epoch, own, frozenset({*node_ids, *here}))
                before = self._state.ballot
                self._keep(before.grant(term))
                candidacy = _Candidacy(term, before, frozenset(node_ids), frozenset(here) if by_person else frozenset())
                objection = await self._stand(candidacy)
                if not objection:
                    self._keep(self._state.ballot.decide(term))
                    log.info("event=elected epoch=%d seconds=%.2f", epoch, time.monotonic() - began_s)
                    return epoch
                floor = candidacy.highest
                if floor < epoch:
                    break
                objection = ""
        raise OutvotedError(objection or "other nodes placed models on the cluster at the same time: try again")

    def owns(self, node_id: str, epoch: int) -> bool:
        """Whether a node may deploy under an epoch, as this node has granted."""
        return self._state.ballot.has_granted(node_id, epoch)

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Say to others that this node is about to deploy a model."""
        self._state.is_placing = True
        try:
            yield
        finally:
            self._state.is_placing = False

    def resign(self) -> None:
        """Give up the vote on what follows, since this node leaves."""
        self._keep(self._state.ballot.resign())

    def inherit(self, node_id: str, ballot: Ballot) -> None:
        """Record that a node leaves; its vote is not waited for any more."""
        self._left[node_id] = ballot.resigned
        if node_id in {elector for term in self._state.ballot.terms for elector in term.electorate}:
            self._keep(self._state.ballot.inherit(ballot))

    async def run(self) -> None:
        """Learn decisions, and have the nodes that are here as the electorate of this node's own epoch."""
        settled_at, here = 0.0, frozenset[str]()
        while True:
            await asyncio.sleep(LOOK_S)
            for node_id in self._state.present:
                decided = self._state.ballot_of(node_id).decided
                if decided.owner == node_id:
                    self._keep(self._state.ballot.decide(decided))
            mine = self._state.ballot.newest
            if mine.owner != self._state.own.node_id or not lasts(self._state.own_serving):
                continue
            await asyncio.gather(
                *(self._tell(node_id, mine) for node_id in self._state.present if self._misses(node_id, mine))
            )
            if here != (here := frozenset({mine.owner, *self._state.present})):
                settled_at = time.monotonic() + SETTLED_S
            holders = frozenset(self._state.own_serving.node_ids)
            is_ready = self._state.own_serving.state == pb.Serving.READY
            if is_ready and time.monotonic() > settled_at and here | holders != mine.electorate:
                settled_at = time.monotonic() + SETTLED_S  # if it fails
                with suppress(MoeClusterError):
                    await self.win(here | holders, by_person=False)

    async def _objection(self, candidate: str) -> str:
        """Return why there is no cause for another owner, "" if there is one."""
        known = {term.owner for term in self._state.ballot.terms}
        known |= {self._state.ballot_of(node_id).granted.owner for node_id in self._state.present}
        for owner in known - {candidate, ""}:
            serving = await self._serving_of(owner)
            if serving is not None:
                doing = f"serves {serving.model}" if serving.model else "places a model"
                return f"node {self._state.name(owner)} {doing}"
        return ""

    async def _serving_of(self, owner: str) -> pb.Serving | None:
        """Return what an owner serves, without a model if it is about to; None if nothing, or if it is lost."""
        state = self._state
        if owner == state.own.node_id:
            is_placing, serving = state.is_placing, state.own_serving
        else:
            if owner not in state.present or (greeting := await self._greeter.asked(owner, ASK_S)) is None:
                return None
            is_placing, serving = greeting.is_placing, greeting.serving
        if lasts(serving):
            return serving
        return pb.Serving() if is_placing else None

    async def _stand(self, candidacy: _Candidacy) -> str:
        """Ask for votes until they are enough; return why they are not."""
        own = self._state.own.node_id
        left = {i: until for i, until in self._left.items() if not self._is_back(i)}
        asked = (candidacy.electors | {*self._state.present}) - {own}
        calls = [asyncio.create_task(self._ask(node_id, candidacy.term)) for node_id in asked]
        try:
            objection = candidacy.objection(left, self._state.name)
            for call in asyncio.as_completed(calls) if objection else ():
                node_id, refusal, ballot = await call
                candidacy.count(node_id, refusal, ballot)
                if node_id in candidacy.node_ids and refusal:
                    return f"node {self._state.name(node_id)} does not take part: {refusal}"
                objection = candidacy.objection(left, self._state.name)
                if not objection:
                    break
            if calls and candidacy.is_by_person:  # all that are here shall know, so that their status says it too
                await asyncio.wait(calls, timeout=ASK_S)
            return objection
        finally:
            for task in calls:
                task.cancel()

    def _is_back(self, node_id: str) -> bool:
        member = self._state.membership.members.get(node_id)
        return member is not None and member.state is State.PRESENT

    async def _ask(self, node_id: str, term: Term) -> tuple[str, str, Ballot | None]:
        try:
            request = pb.GrantRequest(term=ballot_message.term_to_message(term))
            reply = await self._stub(node_id).Grant(request, timeout=GRANT_S)
            return node_id, reply.refusal, ballot_message.from_message(reply.before)
        except grpc.RpcError as exc:
            return node_id, f"it does not answer: {details_of(exc)}", None
        except MoeClusterError as exc:
            return node_id, str(exc), None

    async def _tell(self, node_id: str, term: Term) -> None:
        await self._ask(node_id, term)

    def _misses(self, node_id: str, term: Term) -> bool:
        ballot = self._state.ballot_of(node_id)
        return ballot.newest.epoch <= term.epoch and not ballot.has_granted(term.owner, term.epoch)

    def _keep(self, ballot: Ballot) -> None:
        if ballot != self._state.ballot:
            ballot_file.write(self._path, ballot)
            self._state.ballot = ballot


class _Candidacy:
    """The votes for one term. With `here`, more than half of these decide, instead of the former electorates."""

    def __init__(self, term: Term, before: Ballot, node_ids: frozenset[str], here: frozenset[str]) -> None:
        self.term = term
        self.node_ids = node_ids
        self.highest = 0
        self._before = before
        self._here = here
        self._votes = {term.owner: before}

    @property
    def is_by_person(self) -> bool:
        """Whether a person asked for it."""
        return bool(self._here)

    @property
    def electors(self) -> frozenset[str]:
        """The nodes to ask."""
        return self.term.electorate.union(*(term.electorate for term in self._before.terms))

    def count(self, node_id: str, refusal: str, ballot: Ballot | None) -> None:
        """Record a vote."""
        if ballot is not None and not refusal:
            self._votes[node_id] = ballot
        elif ballot is not None and ballot.refuses(self.term):
            self.highest = max(self.highest, ballot.newest.epoch)

    def objection(self, left: dict[str, int], name: Callable[[str], str]) -> str:
        """Return why the votes so far are not enough, "" if they are."""
        missing = self.node_ids - self._votes.keys()
        if missing:
            return f"node {name(min(missing))} does not answer"
        if self._here:
            is_enough = 2 * len(self._here & self._votes.keys()) > len(self._here)
            return "" if is_enough else "most nodes that are here do not agree to the placement"
        former = undecided(self.term, self._before, self._votes, left)
        if former is None:
            return ""
        n_here, n = len(former.electorate & self._votes.keys()), len(former.electorate)
        return (
            f"only {n_here} of the {n} nodes that decide can be reached, and the others may go on with the model; "
            "`moe-cluster up MODEL` loads it on the nodes that are here"
        )


def lasts(serving: pb.Serving) -> bool:
    """Whether a node serves a model, or loads one."""
    return serving.epoch > 0 and serving.state != pb.Serving.FAILED
