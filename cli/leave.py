"""leave, nodes remove: take this machine, or another one, out of the cluster permanently; the other nodes continue."""

from __future__ import annotations

import shlex

from cli.asking import ask
from cli.failures import print_line
from cli.visible import visible
from cluster.client import OwnNode
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
    if holds_authority(home) and not yes and (others := leaving.stranded(home)):
        _confirm(others)
    leaving.leave(home)
    print("this machine is in no cluster any more: moe-cluster up begins one or joins one")


def remove(name: str, yes: bool) -> None:
    """Remove another node; its certificate is refused from then on.

    Raises:
        InvalidRequestError: there is no such node, or nobody said yes.
        ClusterError: this node does not keep the cluster's authority.
    """
    with OwnNode.connect(Home.default()) as node:
        what = f"{name} can come back only with a new join token"
        if not yes and not ask(f"{what}. Remove it from the cluster?", f"{name} stays in the cluster"):
            raise InvalidRequestError(f"{what}; moe-cluster nodes remove {shlex.quote(name)} --yes removes it")
        removed, was_keeper = node.remove(name)
    print(f"{visible(removed)} is removed; to use that machine again: moe-cluster leave on it, then up --join - there")
    if was_keeper:
        print_line(
            f"{visible(removed)} had a copy of the authority's key, which nobody can take back: if you do not trust "
            "whoever has that machine, begin a new cluster (moe-cluster leave on each node, then up)"
        )


def _confirm(others: int) -> None:
    nodes = f"{others} other node{'s' * (others > 1)}"
    what = f"only this machine keeps the authority of a cluster that {nodes} joined; without it no other node can join"
    if not ask(f"{what}. Leave anyway?", "this machine stays in its cluster"):
        raise InvalidRequestError(f"{what}; moe-cluster leave --yes leaves anyway")
