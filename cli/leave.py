"""leave: removes this machine from its cluster permanently; the other nodes continue."""

from __future__ import annotations

from cli.asking import ask
from cluster.errors import NoClusterError
from cluster.home import Home
from cluster.node import leaving
from cluster.node.tokens import holds_authority
from mlx_moe.errors import InvalidRequestError


def leave(yes: bool) -> None:
    """Stop the node and delete its identity; chats stay.

    Raises:
        NoClusterError: this machine is in no cluster.
        InvalidRequestError: other nodes would lose the authority, and nobody said yes.
    """
    home = Home.default()
    if not home.identity.exists() and not home.authority.exists():
        raise NoClusterError("this machine is in no cluster")
    if holds_authority(home) and not yes and (others := leaving.others(home)):
        _confirm(others)
    leaving.leave(home)
    print("this machine is in no cluster any more: moe-cluster up begins one or joins one")


def _confirm(others: int) -> None:
    nodes = f"{others} other node{'s' * (others > 1)}"
    what = f"this machine holds the authority of a cluster that {nodes} joined; without it no other node can join"
    if not ask(f"{what}. Leave anyway?", "this machine stays in its cluster"):
        raise InvalidRequestError(f"{what}; moe-cluster leave --yes leaves anyway")
