"""A candidacy ends with the vote that decides it, and leaves no call behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.daemon.voting import Voting
from cluster.membership import ballot_message
from cluster.membership.ballot import Ballot
from cluster.wire import node_pb2 as pb

OWN, OTHERS = "a" * 16, frozenset(letter * 16 for letter in "bcd")


class Granting:
    """A node that grants every term."""

    async def Grant(self, _request: pb.GrantRequest, *, timeout: float) -> pb.GrantReply:  # noqa: ARG002, N802
        return pb.GrantReply(before=ballot_message.to_message(Ballot()))


def test_a_candidacy_ends_with_the_vote_that_decides(tmp_path: Path) -> None:
    async def run() -> int:
        nothing: Any = None
        state: Any = SimpleNamespace(
            own=SimpleNamespace(node_id=OWN),
            present=dict.fromkeys(OTHERS),
            membership=SimpleNamespace(members={}),
            ballot_of=lambda _node_id: Ballot(),
            name=str,
        )
        granting: Any = Granting()
        voting = Voting(state, nothing, lambda _node_id: granting, tmp_path / "ballot.json")
        return await voting.win([OWN], by_person=False)

    assert asyncio.run(run()) == 1
