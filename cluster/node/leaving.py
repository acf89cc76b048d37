"""Leaving: makes this machine forget its cluster, which continues without it; without any keeper none can join."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace

from cluster.client import OwnNode
from cluster.daemon.daemon import only_daemon_of
from cluster.errors import ClusterError, NoClusterError
from cluster.home import Home
from cluster.node.options import NodeOptions
from cluster.trust import NodeIdentity, RemovedNodes, TokenStore
from cluster.trust.identity import CERTIFICATES_FILE


def stranded(home: Home) -> int:
    """Return how many other nodes could let nobody in any more if this keeper of the authority left.

    None of them, if another one keeps it too.
    """
    nodes: set[str] = set()
    keepers: set[str] = set()
    with suppress(ClusterError):
        issued = TokenStore(home.tokens, "").issued
        nodes |= {node_id for token in issued.tokens for node_id in token.used_by}
        keepers |= set(issued.keepers)
    with suppress(ClusterError), OwnNode.connect(home) as node:
        others = node.status().nodes[1:]
        nodes |= {other.info.node_id for other in others}
        keepers |= {other.info.node_id for other in others if other.keeps_authority}
    with suppress(ClusterError):
        identity = NodeIdentity.load(home.identity)
        gone = {identity.node_id, *(r.node_id for r in RemovedNodes(home.removed, identity.ca_certificate).all())}
        nodes, keepers = nodes - gone, keepers - gone
    return 0 if keepers else len(nodes)


def leave(home: Home) -> None:
    """Stop a home's node and delete its membership of the cluster; chats stay. Raises ClusterError."""
    with suppress(NoClusterError), OwnNode.connect(home) as node:
        node.stop(for_good=True)
    with only_daemon_of(home):
        _forget(home)


def _forget(home: Home) -> None:
    """Delete the files of the membership, the certificates first: without them the others have no effect."""
    (home.identity / CERTIFICATES_FILE).unlink(missing_ok=True)
    for directory in (home.authority, home.identity):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (home.tokens, home.tokens.with_suffix(".lock"), home.removed):
        file.unlink(missing_ok=True)
    with suppress(ClusterError):  # unreadable: `up` says so
        options = NodeOptions.read(home.options)
        replace(options, peers=None).write(home.options)
