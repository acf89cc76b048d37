"""Callers: which nodes may make which calls of a daemon. Its own command line has a socket: see `control_service`.

A certificate alone opens nothing but the greeting. A *member* has greeted this node, or answered it, and was not
refused. Some calls decide more, with their message: see `NodeService`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster.daemon.greeter import ECHO_METHOD
from cluster.daemon.state import NodeState
from cluster.trust.call_rules import Rule
from cluster.weights.weights_service import READ_METHOD

NODE = "/moe_cluster.v1.Node/"

_OF_MEMBERS = {
    f"{NODE}Leave": 2,
    f"{NODE}Grant": 4,
    ECHO_METHOD: 2,
    f"{NODE}Inspect": 4,
    f"{NODE}InspectPart": 4,
    f"{NODE}Outline": 4,
    f"{NODE}Adopt": 4,
    f"{NODE}ListModels": 4,
    f"{NODE}Fetch": 2,  # one, and one that was cancelled and still ends
    READ_METHOD: 32,  # a worker that loads reads several arrays at once
    f"{NODE}RunWorker": 2,  # as Fetch
    f"{NODE}Deploy": 4,
    f"{NODE}FollowLoad": 32,  # one for each terminal that waits
    f"{NODE}Unload": 4,
    f"{NODE}Rebalance": 4,
    f"{NODE}KeepAuthority": 2,
    f"{NODE}About": 4,
    f"{NODE}ReadLog": 4,
}
"""Calls of members, and how many a node may make at once."""

_PER_SECOND = {f"{NODE}Leave": 4, f"{NODE}Grant": 16}
"""Calls after which this node may have to write its ballot to disk, and how many a node may make in a second."""

GREETINGS = 32
"""A node greets every address of another one, and asks again when its command line wants to know."""


def rules(state: NodeState) -> Mapping[str, Rule]:
    """Return the rules of a daemon's calls."""

    def not_member(caller: str) -> str:
        if caller == state.own.node_id:
            return ""
        if state.removed is not None and (removal := state.removed.get(caller)) is not None:
            return removal.words
        if caller in state.membership.members:
            return ""
        own = state.name(state.own.node_id)
        return f"node {caller or '?'} is no member of the cluster that node {own} knows: nodes greet each other first"

    return {
        f"{NODE}Greet": Rule(lambda _: "", GREETINGS, per_s=GREETINGS),
        **{
            method: Rule(not_member, at_once, per_s=_PER_SECOND.get(method, math.inf))
            for method, at_once in _OF_MEMBERS.items()
        },
    }
