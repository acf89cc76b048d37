"""leave: this machine forgets its cluster, which lives on without it unless it holds the authority."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace

from cli.asking import ask
from cluster.client import OwnNode
from cluster.daemon.daemon import only_daemon_of
from cluster.errors import ClusterError, NoClusterError
from cluster.home import Home
from cluster.node.options import NodeOptions
from cluster.trust import Authority, TokenStore
from cluster.trust.identity import CERTIFICATES_FILE
from mlx_moe.errors import InvalidRequestError


def leave(yes: bool) -> None:
    """End the node and delete what makes it one of its cluster; chats stay.

    Raises:
        NoClusterError: it is in no cluster.
        InvalidRequestError: others would be left without an authority, and nobody said yes.
    """
    home = Home.default()
    if not home.identity.exists() and not home.authority.exists():
        raise NoClusterError("this machine is in no cluster")
    if Authority.is_in(home.authority) and not yes and (others := _others(home)):
        _confirm(others)
    with suppress(NoClusterError), OwnNode.connect(home) as node:
        node.stop()
    with only_daemon_of(home):
        _forget(home)
    print("this machine is in no cluster any more: moe-cluster up begins one or joins one")


def _others(home: Home) -> int:
    """Return how many other nodes the cluster has had, as far as is known."""
    ids: set[str] = set()
    with suppress(ClusterError):
        ids |= {node_id for token in TokenStore(home.tokens, "").tokens for node_id in token.used_by}
    with suppress(ClusterError), OwnNode.connect(home) as node:
        ids |= {other.info.node_id for other in node.status().nodes[1:]}
    return len(ids)


def _confirm(others: int) -> None:
    nodes = f"{others} other node{'s' * (others > 1)}"
    what = f"this machine holds the authority of its cluster, which {nodes} joined: no further node could join them"
    if not ask(f"{what}. Leave it all the same?", "this machine stays in its cluster"):
        raise InvalidRequestError(f"{what}; moe-cluster leave --yes leaves it all the same")


def _forget(home: Home) -> None:
    """Delete the certificates first: without them the rest means nothing."""
    (home.identity / CERTIFICATES_FILE).unlink(missing_ok=True)
    for directory in (home.authority, home.identity):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (home.tokens, home.tokens.with_suffix(".lock")):
        file.unlink(missing_ok=True)
    with suppress(ClusterError):  # unreadable: `up` says so
        options = NodeOptions.read(home.options)
        replace(options, peers=None).write(home.options)
