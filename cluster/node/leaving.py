"""Leaving: makes this machine forget its cluster, which continues without it; without its authority none can join."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace

from cluster.client import OwnNode
from cluster.daemon.daemon import only_daemon_of
from cluster.errors import ClusterError, NoClusterError
from cluster.home import Home
from cluster.node.options import NodeOptions
from cluster.trust import TokenStore
from cluster.trust.identity import CERTIFICATES_FILE


def others(home: Home) -> int:
    """Return the number of other nodes that the cluster is known to have had."""
    ids: set[str] = set()
    with suppress(ClusterError):
        ids |= {node_id for token in TokenStore(home.tokens, "").tokens for node_id in token.used_by}
    with suppress(ClusterError), OwnNode.connect(home) as node:
        ids |= {other.info.node_id for other in node.status().nodes[1:]}
    return len(ids)


def leave(home: Home) -> None:
    """Stop a home's node and delete its membership of the cluster; chats stay. Raises ClusterError."""
    with suppress(NoClusterError), OwnNode.connect(home) as node:
        node.stop()
    with only_daemon_of(home):
        _forget(home)


def _forget(home: Home) -> None:
    """Delete the files of the membership, the certificates first: without them the others have no effect."""
    (home.identity / CERTIFICATES_FILE).unlink(missing_ok=True)
    for directory in (home.authority, home.identity):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (home.tokens, home.tokens.with_suffix(".lock")):
        file.unlink(missing_ok=True)
    with suppress(ClusterError):  # unreadable: `up` says so
        options = NodeOptions.read(home.options)
        replace(options, peers=None).write(home.options)
