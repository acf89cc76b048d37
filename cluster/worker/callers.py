"""Callers: which nodes may make which calls of a worker, by its role in its placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.trust.call_rules import Rule
from cluster.trust.credentials import Credentials
from cluster.worker.messages import EXPERTS_METHOD, FRAMES_METHOD
from cluster.worker.role import Role

CANCEL = "/moe_cluster.v1.Stage/Cancel"
NOTE_MEMORY = "/moe_cluster.v1.Stage/NoteMemory"
COORDINATOR = "/moe_cluster.v1.Coordinator/"

LINKS = 2
"""Streams from one node: one, and a broken one that still ends."""

CANCELS = 64

_OF_CLIENTS = {
    "Describe": 32,
    "FormatChat": 32,
    "Encode": 32,
    "Decode": 32,
    "Answer": 256,
    "CloseConversation": 32,
    "HoldConversation": 256,
    "Timeline": 4,
}
"""Calls of every node that was not removed, whose person asks for answers, and how many it may make at once."""


def rules(role: Role, credentials: Credentials) -> Mapping[str, Rule]:
    """Return the rules of a worker's calls; on an insecure cluster nobody can tell nodes apart."""

    def only(node_id: str, what: str) -> Callable[[str], str]:
        insecure = credentials.insecure
        return lambda caller: "" if insecure or caller == node_id else f"only node {node_id} {what} here"

    def not_peer(caller: str) -> str:
        is_peer = any(caller == peer.node_id for stage in placement.stages for peer in stage.peers)
        return "" if credentials.insecure or is_peer else "only expert peers tell here what they use"

    placement = role.placement
    return {
        FRAMES_METHOD: Rule(only(role.previous_node, "sends frames"), LINKS),
        EXPERTS_METHOD: Rule(only(role.stage.node_id, "asks experts"), LINKS),
        CANCEL: Rule(only(placement.coordinator, "cancels frames"), CANCELS),
        NOTE_MEMORY: Rule(not_peer, LINKS),
        **{f"{COORDINATOR}{name}": Rule(credentials.refusal, at_once) for name, at_once in _OF_CLIENTS.items()},
    }
